//! An order service: an order is placed once, and may be cancelled, also before it was placed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

/// How an order stands. Placing and cancelling are their own keys: the order's id is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Placed,
    Cancelled,
}

/// The service. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders(Arc<Mutex<Shelf>>);

#[derive(Debug, Default)]
struct Shelf {
    orders: HashMap<String, Standing>,
    /// Orders that it won't take.
    unwanted: HashSet<String>,
}

impl Orders {
    pub(crate) fn routes(&self) -> axum::Router {
        axum::Router::new()
            .route("/orders/{order}/place", post(place))
            .route("/orders/{order}/cancel", post(cancel))
            .with_state(self.clone())
    }

    /// From now on it does not take this one.
    pub(crate) fn refuse(&self, order: &str) {
        self.shelf().unwanted.insert(order.to_owned());
    }

    /// None where it has never heard of it.
    pub(crate) fn standing(&self, order: &str) -> Option<Standing> {
        self.shelf().orders.get(order).copied()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing that holds it can panic halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn place(State(orders): State<Orders>, Path(order): Path<String>) -> (StatusCode, Json<Value>) {
    let mut shelf = orders.shelf();
    if shelf.unwanted.contains(&order) {
        return refusal("ADDRESS_UNDELIVERABLE");
    }
    match shelf.orders.entry(order).or_insert(Standing::Placed) {
        Standing::Placed => (StatusCode::OK, Json(json!({"status": "PLACED"}))),
        Standing::Cancelled => refusal("ORDER_CANCELLED"),
    }
}

async fn cancel(State(orders): State<Orders>, Path(order): Path<String>) -> Json<Value> {
    orders.shelf().orders.insert(order, Standing::Cancelled);
    Json(json!({"status": "CANCELLED"}))
}

fn refusal(code: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::CONFLICT, Json(json!({"code": code})))
}

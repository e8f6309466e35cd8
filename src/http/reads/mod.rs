//! What pages read: stock, listings, and how an order stands.
//!
//! Answers come from the read model and say how old they are, at most 3 s; nothing here asks Redis or uses a connection
//! that a reservation waits for. A SKU that many ask for is read once for all of them. While Redis is away customers
//! reload, so reads are let in up to a ceiling and say that they are.

mod availability;
mod cache;
mod orders;
mod stock;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Deserialize;
use tokio::runtime::Handle;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::cache::{Cache, OnFailure};
use super::Gateway;
use super::admission::admit;
use super::batch::Batcher;
use super::code::Code;
use super::problem::Problem;
use crate::domain::id::{LocationId, OrderId, Sku};
use crate::domain::time::Millis;
use crate::health::Standing;
use crate::ledger::Ledger;
use crate::ledger::read_model::orders::OrderRead;
use crate::ledger::read_model::stock::{SkuStock, Source, StockRead};
use crate::metric;

/// Most SKUs that are kept: some 30 MB.
const SKUS_MAX: usize = 50_000;
/// Most orders that are kept, for pages that wait while the ledger is away.
const ORDERS_MAX: usize = 20_000;

/// SKUs of which the path is also that of a POST, and so hides `{skuId}`.
const VERBS: [&str; 3] = ["reserve", "confirm", "release"];

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    let named = VERBS.into_iter().fold(OpenApiRouter::new(), |routes, verb| {
        routes.route(&format!("/api/inventory/{verb}"), stock::get_verb(verb))
    });
    named
        .routes(routes!(stock::get_stock))
        .routes(routes!(stock::get_sku))
        .routes(routes!(availability::get_availability))
        .routes(routes!(orders::get_order))
        .routes(routes!(orders::get_order_read_model))
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Consistency {
    /// The ledger's.
    Strong,
}

/// A SKU as it was seen; without stock: there was no such SKU.
#[derive(Clone, Debug)]
struct Seen {
    as_of: Millis,
    source: Source,
    stock: Option<SkuStock>,
}

/// The ways to what pages read. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    stock: Arc<Cache<Sku, Arc<Seen>>>,
    strong: Batcher<Sku, Arc<Seen>>,
    locations: Arc<Cache<LocationId, bool>>,
    orders: Arc<Cache<OrderId, Arc<OrderRead>>>,
}

impl Reads {
    /// Reads this ledger and its read model.
    pub(super) fn start(ledger: &Ledger) -> Self {
        let on = Handle::current();
        let at = ledger.clone();
        let snapshots = Batcher::start(&on, "snapshot", move |skus: Arc<[Sku]>| {
            let ledger = at.clone();
            async move { Ok(seen(&skus, ledger.stock_snapshot(&skus).await?)) }
        });
        let at = ledger.clone();
        let strong = Batcher::start(&on, "stock", move |skus: Arc<[Sku]>| {
            let ledger = at.clone();
            async move { Ok(seen(&skus, ledger.stock(&skus).await?)) }
        });
        let (places, orders) = (ledger.clone(), ledger.clone());
        Reads {
            stock: Cache::new(SKUS_MAX, OnFailure::Fail, move |sku| {
                let snapshots = snapshots.clone();
                async move { snapshots.ask(sku).await }
            }),
            strong,
            locations: Cache::new(SKUS_MAX, OnFailure::Fail, move |location| {
                let ledger = places.clone();
                async move { Ok(ledger.knows_location(&location).await?) }
            }),
            orders: Cache::new(ORDERS_MAX, OnFailure::TellTheLast, move |order| {
                let ledger = orders.clone();
                async move { Ok(Arc::new(ledger.order_snapshot(&order).await?)) }
            }),
        }
    }

    /// A SKU, as fresh as asked for.
    async fn sku(&self, sku: &Sku, consistency: Option<Consistency>) -> Result<Arc<Seen>, Problem> {
        let (seen, was_kept) = match consistency {
            Some(Consistency::Strong) => (self.strong.ask(sku.clone()).await?, false),
            None => self.stock.get(sku).await?,
        };
        let source = if was_kept { "memory" } else { seen.source.as_str() };
        metrics::counter!(metric::READS, "source" => source).increment(1);
        Ok(seen)
    }
}

fn seen(skus: &[Sku], mut read: StockRead) -> Vec<Arc<Seen>> {
    let mut known: HashMap<&Sku, Arc<Seen>> = HashMap::new();
    let each = skus.iter().map(|sku| {
        let seen = known.entry(sku).or_insert_with(|| {
            Arc::new(Seen {
                as_of: read.as_of,
                source: read.source,
                stock: read.skus.remove(sku),
            })
        });
        Arc::clone(seen)
    });
    each.collect()
}

/// A read that was let in: whether Redis is away, which the answer says.
#[derive(Clone, Copy, Debug)]
struct LetIn {
    degraded: bool,
}

impl FromRequestParts<Arc<Gateway>> for LetIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        admit(&parts.extensions)?;
        let degraded = is_degraded(gateway);
        if degraded && let Some(wait) = gateway.admission.reads_wait() {
            let limit = gateway.admission.reads_rate();
            return Err(Problem::new(
                Code::ReadsLimited,
                format!("live stock is away, and meanwhile {limit} reads per second are served"),
            )
            .with("perSecond", limit)
            .retry_after(wait));
        }
        Ok(LetIn { degraded })
    }
}

/// Whether Redis is known to be away.
pub(super) fn is_degraded(gateway: &Gateway) -> bool {
    matches!(gateway.health.now().redis, Standing::Away(_))
}

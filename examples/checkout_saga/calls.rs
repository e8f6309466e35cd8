//! How each step is asked for, and what its answers mean.
//!
//! A step's key is made of the checkout and the step, so however often it is asked for it happens once, and the answer
//! that was lost is given again.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::saga::{Progress, Step};
use crate::wire::{Heard, ask, client};

/// How long the gateway's answer is waited for.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(10);
/// How long the gateway waits for Postgres before it answers that units are accepted only.
const DURABLE_WAIT: &str = "wait=2";

/// Where everybody is.
pub(crate) struct Calls {
    to_gateway: Client,
    to_services: Client,
    gateway: String,
    services: String,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(Value),
    /// It did not happen, and this is why.
    Refused(String),
    /// It is not decided yet: the same again later.
    Pending,
    /// It may have happened or not: the same again.
    Unknown(String),
}

/// The key of a step, which is also the id of a return.
pub(crate) fn key(progress: &Progress, step: Step) -> String {
    format!("{}:{}", progress.checkout.saga, step.name())
}

impl Calls {
    /// The services' answers are waited for so long.
    pub(crate) fn new(gateway: &str, services: &str, patience: Duration) -> Result<Calls, String> {
        Ok(Calls {
            to_gateway: client(GATEWAY_PATIENCE)?,
            to_services: client(patience)?,
            gateway: gateway.to_owned(),
            services: services.to_owned(),
        })
    }

    /// Asks once.
    pub(crate) async fn ask(&self, progress: &Progress, step: Step) -> Answer {
        let Some((url, body)) = self.request(progress, step) else {
            return Answer::Refused("there is no reservation".to_owned());
        };
        let key = key(progress, step);
        let headers = [("idempotency-key", key.as_str()), ("prefer", DURABLE_WAIT)];
        let client = match step {
            Step::Reserve | Step::Commit | Step::Release | Step::Return => &self.to_gateway,
            _ => &self.to_services,
        };
        match ask(client, Method::POST, url, &headers, Some(body)).await {
            Ok(heard) => understand(step, heard),
            Err(why) => Answer::Unknown(why),
        }
    }

    fn request(&self, progress: &Progress, step: Step) -> Option<(String, Value)> {
        let checkout = &progress.checkout;
        let (saga, order) = (&checkout.saga, &checkout.order);
        let reservations = format!("{}/api/inventory/reservations", self.gateway);
        let of_reservation = |verb: &str| Some(format!("{reservations}/{}/{verb}", progress.reservation()?));
        let payment = |verb: &str| format!("{}/payments/{saga}/{verb}", self.services);
        let orders = |verb: &str| format!("{}/orders/{order}/{verb}", self.services);
        Some(match step {
            Step::Reserve => (
                reservations,
                json!({"orderId": order, "skuId": checkout.sku, "locationId": checkout.location,
                       "quantity": checkout.quantity, "userId": checkout.user, "ttlSeconds": checkout.ttl_seconds}),
            ),
            Step::Commit => (of_reservation("commit")?, json!({"paymentId": saga})),
            Step::Release => (of_reservation("release")?, json!({"reason": "checkout undone"})),
            Step::Return => (
                of_reservation("returns")?,
                json!({"returnId": key(progress, step), "condition": "sellable", "reason": "checkout undone"}),
            ),
            Step::Authorise => (payment("authorise"), json!({"cents": checkout.cents})),
            Step::Capture => (payment("capture"), json!({})),
            Step::Void => (payment("void"), json!({})),
            Step::Refund => (payment("refund"), json!({})),
            Step::Order => (
                orders("place"),
                json!({"skuId": checkout.sku, "quantity": checkout.quantity}),
            ),
            Step::CancelOrder => (orders("cancel"), json!({})),
        })
    }
}

fn understand(step: Step, heard: Heard) -> Answer {
    match heard.status {
        // Of units: Redis has them, Postgres not yet. Of money: the buyer has not decided.
        202 => Answer::Pending,
        200..300 if step == Step::Reserve => reserved(heard.body),
        200..300 => Answer::Done(heard.body),
        // Shed, limited, a store is away: nobody knows what came of it, and asking again tells.
        408 | 429 | 500.. => Answer::Unknown(heard.code().to_owned()),
        // Deadlines stand still, and it will melt.
        409 if heard.code() == "SALE_FROZEN" => Answer::Pending,
        _ => Answer::Refused(heard.code().to_owned()),
    }
}

/// A repeated request shows how the reservation stands by now.
fn reserved(body: Value) -> Answer {
    match body["status"].as_str().unwrap_or("without a status") {
        // Expired: a commit takes the units again where they are free.
        "RESERVED" | "EXPIRED" => Answer::Done(body),
        status => Answer::Refused(status.to_owned()),
    }
}

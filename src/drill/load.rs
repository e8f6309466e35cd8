//! Clients who reserve, pay, give back, prolong, look and forget, whatever happens; and who ask again, with the same
//! key, where they don't know what came of it.
//!
//! What a client does follows from its seed and from what it is answered.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DrillError;
use super::history::{Action, Kind, Operation, Outcome};
use super::shop::{self, Shelf};
use super::stack::pause;
use super::web::{Ask, Web};
use crate::domain::id::{OrderId, UserId};
use crate::domain::reservation::Ack;
use crate::domain::reservation_id::ReservationId;

const RESERVATIONS: &str = "/api/inventory/reservations";
/// Few enough for limits to matter.
const USERS: u32 = 60;
/// Who does not know yet asks so often after the end; all is well by then.
const LAST_TRIES: u32 = 8;
/// What clients are ready to wait for.
const PREFERENCES: [Option<&str>; 5] = [None, None, Some("respond-async"), Some("wait=0.2"), Some("wait=3")];

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    stop: CancellationToken,
    clients: JoinSet<Result<Vec<ReservationId>, DrillError>>,
}

#[derive(Debug)]
struct Client {
    number: u32,
    round: u32,
    web: Arc<Web>,
    shelves: Arc<[Shelf]>,
    stop: CancellationToken,
    chance: StdRng,
    /// What was merely accepted when it was answered.
    undurable: Vec<ReservationId>,
}

impl Load {
    /// So many clients, and an admin.
    pub(super) fn start(web: &Arc<Web>, shelves: &Arc<[Shelf]>, round: u32, clients: u32, seed: u64) -> Load {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let client = Client {
                number,
                round,
                web: Arc::clone(web),
                shelves: Arc::clone(shelves),
                stop: stop.clone(),
                chance: StdRng::seed_from_u64(seed ^ (u64::from(number) << 32)),
                undurable: Vec::new(),
            };
            tasks.spawn(client.run());
        }
        tasks.spawn(raise(
            Arc::clone(web),
            Arc::clone(shelves),
            StdRng::seed_from_u64(!seed),
            stop.clone(),
        ));
        Load { stop, clients: tasks }
    }

    /// Lets everyone end what they are at. Returns the reservations that were merely accepted when they were answered.
    ///
    /// # Errors
    /// The history can't be written, or an admin was refused.
    pub(super) async fn leave(mut self) -> Result<Vec<ReservationId>, DrillError> {
        self.stop.cancel();
        let mut undurable = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            let client = client.map_err(|error| DrillError::Stack(format!("a client broke: {error}")))?;
            undurable.extend(client?);
        }
        Ok(undurable)
    }
}

/// An admin who gives the small sale some units more, in the middle of everything.
async fn raise(
    web: Arc<Web>,
    shelves: Arc<[Shelf]>,
    mut chance: StdRng,
    stop: CancellationToken,
) -> Result<Vec<ReservationId>, DrillError> {
    let after = Duration::from_millis(chance.random_range(500..4_000));
    if stop.run_until_cancelled(tokio::time::sleep(after)).await.is_some() {
        let small = &shelves[1];
        let allocation = small.allocation + chance.random_range(1..20);
        shop::act(&web, small, Action::Patch, allocation).await?;
    }
    Ok(Vec::new())
}

impl Client {
    async fn run(mut self) -> Result<Vec<ReservationId>, DrillError> {
        for n in 0.. {
            if self.stop.is_cancelled() {
                break;
            }
            if let Some(held) = self.reserve(n).await? {
                self.go_on(&held).await?;
            }
            pause(self.chance.random_range(5..60)).await;
        }
        Ok(self.undurable)
    }

    /// Takes something; what became of it where that is known and good.
    async fn reserve(&mut self, n: u32) -> Result<Option<Operation>, DrillError> {
        let shelves = Arc::clone(&self.shelves);
        let shelf = shelves.choose(&mut self.chance).expect("a round sells something");
        let order = format!("r{}-c{}-{n}", self.round, self.number);
        let quantity = self.chance.random_range(1..=3_i64);
        let mut body = json!({
            "orderId": order, "skuId": shelf.item.sku.as_str(), "locationId": shelf.item.location.as_str(),
            "quantity": quantity,
        });
        if self.chance.random_bool(0.3) {
            body["ttlSeconds"] = self.chance.random_range(1..=3).into();
        }
        let user = format!("r{}-u{}", self.round, self.chance.random_range(0..USERS));
        if shelf.limit.is_some() {
            body["userId"] = user.as_str().into();
        }
        let mut ask = Ask::of(Kind::Reserve, RESERVATIONS, body);
        ask.prefer = PREFERENCES.choose(&mut self.chance).copied().flatten();
        let operation = &mut ask.operation;
        operation.key = Some(order.clone());
        operation.order_id = OrderId::try_from(order.as_str()).ok();
        operation.user_id = UserId::try_from(user.as_str()).ok().filter(|_| shelf.limit.is_some());
        operation.sale_id = Some(shelf.sale.clone());
        operation.sku_id = Some(shelf.item.sku.clone());
        operation.location_id = Some(shelf.item.location.clone());
        operation.quantity = Some(quantity);
        let told = self.insist(ask).await?;
        if told.outcome != Outcome::Ok {
            return Ok(None);
        }
        if let Some(id) = told.reservation_id.filter(|_| told.ack == Some(Ack::Accepted)) {
            self.undurable.push(id);
        }
        Ok(Some(told))
    }

    /// What a client does with what it holds.
    async fn go_on(&mut self, held: &Operation) -> Result<(), DrillError> {
        let Some(id) = held.reservation_id else { return Ok(()) };
        pause(self.chance.random_range(0..150)).await;
        if self.chance.random_bool(0.15) {
            self.ask_about(Kind::Get, id, held).await?;
        }
        if self.chance.random_bool(0.1) {
            self.ask_about(Kind::Extend, id, held).await?;
        }
        match self.chance.random_range(0..100) {
            0..45 => {
                self.ask_about(Kind::Commit, id, held).await?;
            }
            45..80 => {
                self.ask_about(Kind::Release, id, held).await?;
            }
            80..84 => {
                // Two minds at once: whichever comes first is its end.
                self.ask_about(Kind::Release, id, held).await?;
                self.ask_about(Kind::Commit, id, held).await?;
            }
            84..88 => {
                // Paid after its time, most likely.
                let late = Duration::from_millis(self.chance.random_range(3_000..5_500));
                self.stop.run_until_cancelled(tokio::time::sleep(late)).await;
                self.ask_about(Kind::Commit, id, held).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn ask_about(&mut self, kind: Kind, id: ReservationId, held: &Operation) -> Result<Operation, DrillError> {
        let path = format!("{RESERVATIONS}/{id}");
        let (path, body) = match kind {
            Kind::Commit => (format!("{path}/commit"), json!({"paymentId": format!("pay-{id}")})),
            Kind::Release => (format!("{path}/release"), json!({})),
            Kind::Extend => (format!("{path}/extend"), json!({"ttlSeconds": 8})),
            Kind::Get | Kind::Reserve | Kind::Sale => (path, json!({})),
        };
        let mut ask = Ask::of(kind, path, body);
        ask.operation.reservation_id = Some(id);
        ask.operation.sale_id = held.sale_id.clone();
        self.insist(ask).await
    }

    /// Asks one gateway after the other until an answer decides; the last answer, where none does.
    async fn insist(&mut self, mut ask: Ask) -> Result<Operation, DrillError> {
        ask.operation.client = self.number;
        let mut gateway = self.chance.random_range(0..self.web.gateways());
        let mut last_tries = 0;
        loop {
            let told = self.web.ask(gateway, &ask).await?;
            if self.stop.is_cancelled() {
                last_tries += 1;
            }
            // Extending twice is not the same as once, and looking is not worth it.
            let is_final = matches!(ask.operation.kind, Kind::Extend | Kind::Get);
            if told.outcome != Outcome::Unknown || is_final || last_tries > LAST_TRIES {
                return Ok(told);
            }
            gateway = (gateway + 1) % self.web.gateways();
            pause(self.chance.random_range(50..250)).await;
        }
    }
}

/// Asks what became of these, at rest: whoever was answered too early to be sure looks again.
///
/// # Errors
/// The history can't be written.
pub(super) async fn look_again(web: &Web, ids: &[ReservationId]) -> Result<(), DrillError> {
    for (turn, id) in (0..).zip(ids) {
        let mut ask = Ask::of(Kind::Get, format!("{RESERVATIONS}/{id}"), json!({}));
        ask.operation.reservation_id = Some(*id);
        ask.operation.client = shop::ADMIN;
        for again in 0..LAST_TRIES {
            let told = web.ask((turn + again) % web.gateways(), &ask).await?;
            if told.outcome != Outcome::Unknown {
                break;
            }
            pause(100).await;
        }
    }
    Ok(())
}

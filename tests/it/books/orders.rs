//! The order system: it tells what became of orders, and what follows for certain is done.

use chrono::{DateTime, SubsecRound, Utc};
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::Play;
use super::book::Status;
use crate::support::door::{Door, Told, until};

/// One at a time: a run judges whatever waits, and does what follows from it when others have gone on.
static JUDGING: Mutex<()> = Mutex::const_new(());

/// Postgres' time, in whole milliseconds as the API has it.
pub(super) async fn now(door: &Door) -> DateTime<Utc> {
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&door.pool)
        .await
        .expect("Postgres answers");
    now.trunc_subsecs(3)
}

/// Tells an order's state and has it judged; returns what was found of the order, none where the answer was lost.
/// `post` sends to the admin listener until there is an answer to keep.
pub(super) async fn tell(
    door: &Door,
    order: &str,
    state: &str,
    post: impl AsyncFn(&str, Value) -> Told,
) -> Option<Vec<Value>> {
    let _turn = JUDGING.lock().await;
    // A lane knows Postgres' time only as nearly as a round trip, and a state means what was there before it.
    let is_past = "SELECT clock_timestamp() > coalesce(max(created_at), '-infinity') FROM inventory_reservation
                   WHERE order_id = $1";
    until("the time of the reservation", async || {
        let is_past: bool = sqlx::query_scalar(is_past)
            .bind(order)
            .fetch_one(&door.pool)
            .await
            .expect("Postgres answers");
        is_past.then_some(())
    })
    .await;
    let news = json!({"orderId": order, "state": state, "at": now(door).await});
    post("/api/inventory/order-states", news).await.expect(202);
    let told = door
        .post("/admin/reconciliation/run", json!({"kind": "order_state"}))
        .await;
    if told.status == 503 {
        return None;
    }
    let found = told.expect(200)["reports"][0]["discrepancies"].clone();
    let found = found.as_array().expect("a list").iter();
    Some(found.filter(|found| found["orderId"] == order).cloned().collect())
}

impl Play {
    /// Something becomes of an order: what it has reserved is bought or given back.
    pub(super) async fn hear(&mut self) {
        let Some(at) = self.any_reservation(Status::Reserved) else {
            return;
        };
        let order = self.book.reservations[at].request.order.clone();
        let (state, status) = [
            ("paid", Status::Committed),
            ("shipped", Status::Committed),
            ("cancelled", Status::Released),
            ("refunded", Status::Released),
        ][self.random.random_range(0..4)];
        let post = async |path: &str, body: Value| self.post_as("ann", path, &body).await.0;
        let found = tell(&self.door, &order, state, post).await;
        self.note(format!("{order} is {state}: {found:?}"));
        let Some(found) = found else {
            return self.see_ended(&order).await;
        };
        let mut corrected = 0;
        for at in 0..self.book.reservations.len() {
            let held = &self.book.reservations[at];
            if held.request.order != order || held.status != Status::Reserved {
                continue;
            }
            let stays = status == Status::Committed && self.book.stands_still(at);
            for line in &held.lines {
                let of_line = |found: &&Value| {
                    found["skuId"] == self.book.sku(line.item)
                        && found["locationId"] == self.book.location(line.item)
                        && found["cause"] == format!("{state}_but_reserved")
                };
                let said = found.iter().find(of_line).expect("it is told");
                let expected = if stays { "manual_review" } else { "corrected" };
                assert_eq!(said["status"], expected, "{said}");
                corrected += usize::from(!stays);
            }
            if !stays {
                self.book.end(at, status);
            }
        }
        let is_corrected = |found: &&Value| found["status"] == "corrected";
        assert_eq!(found.iter().filter(is_corrected).count(), corrected, "{found:?}");
    }

    /// What was judged of an order can only be seen.
    async fn see_ended(&mut self, order: &str) {
        for at in 0..self.book.reservations.len() {
            let held = &self.book.reservations[at];
            if held.request.order != order || held.status != Status::Reserved {
                continue;
            }
            let (told, _) = self.insist(async || self.door.reservation(&held.id).await).await;
            match told.body["status"].as_str() {
                Some("COMMITTED") => self.book.end(at, Status::Committed),
                Some("RELEASED") => self.book.end(at, Status::Released),
                _ => {}
            }
        }
    }
}

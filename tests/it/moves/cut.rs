//! Calls that are cut short: the client hangs up, Postgres loses the connection, or the gateway dies. Whoever asks again
//! under the same name gets the first answer, and everything has happened once.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};

use super::{open, stock};
use crate::support::door::{Buy, Door, PATIENCE, Told, until};
use crate::support::gateway::{Child, Whole, migrate};
use crate::support::servers::shared;

const ADJUSTMENTS: &str = "/api/inventory/adjustments";

/// Kinds of calls.
const KINDS: usize = 6;
/// Units that one person may not bring alone.
const MANY: i64 = 2_000;

/// One of each kind, named by its number; together they change what [`Calls::assert_once`] says.
struct Calls {
    sold: String,
    counted_at: String,
    on_hand: i64,
    /// Of each round: what waits for a second person, and what was wrong.
    waiting: Vec<String>,
    wrong: Vec<i64>,
}

/// Gateways over one database: one within the test, and one that can die.
async fn pair() -> (Whole, Child) {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let whole = Whole::over(&redis_url, &database_url).await;
    let child = Child::over(&redis_url, &database_url).await;
    (whole, child)
}

impl Calls {
    /// 100 units of `hot` of which 20 were sold.
    async fn stock_up(door: &Door, rounds: usize) -> Calls {
        door.receive("hot", 100).await;
        open(door, "wh2", true).await;
        let sold = door.reserve(&Buy::of("o1").units(20)).await.id();
        door.commit(&sold).await.expect(200);
        let counted_at: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&door.pool)
            .await
            .expect("reads");
        let (mut waiting, mut wrong) = (Vec::new(), Vec::new());
        for n in 0..rounds {
            let adjust = |delta: i64, reason: &str| {
                json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": reason,
                       "referenceId": format!("before-{n}")})
            };
            let many = door
                .post(ADJUSTMENTS, adjust(MANY, "manual_correction"))
                .await
                .expect(202);
            waiting.push(many["approvalId"].as_str().expect("an id").to_owned());
            let broken = door.post(ADJUSTMENTS, adjust(-1, "damaged")).await.expect(201);
            wrong.push(broken["eventId"].as_i64().expect("a number"));
        }
        Calls {
            waiting,
            wrong,
            sold,
            counted_at: counted_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            on_hand: 80,
        }
    }

    /// An adjustment, a return, a transfer, an approval, an undo, or a count, which comes but once.
    async fn ask(&self, door: &Door, n: usize) -> Option<Told> {
        match n % KINDS {
            0 => {
                let body = json!({"skuId": "hot", "locationId": "wh1", "delta": -3, "reason": "lost",
                                  "referenceId": format!("a{n}")});
                door.try_post(ADJUSTMENTS, &body).await
            }
            1 => {
                let body = json!({"returnId": format!("r{n}"), "quantity": 2, "condition": "damaged"});
                let path = format!("/api/inventory/reservations/{}/returns", self.sold);
                door.try_shop(&path, &body).await
            }
            2 => {
                let body = json!({"transferId": format!("t{n}"), "skuId": "hot", "fromLocationId": "wh1",
                                  "toLocationId": "wh2", "quantity": 5});
                door.try_post("/api/inventory/transfers", &body).await
            }
            3 => {
                let path = format!("/admin/approvals/{}/approve", self.waiting[n / KINDS]);
                door.try_post_as("bob", &path, &json!({})).await
            }
            4 => {
                let path = format!("/admin/events/{}/undo", self.wrong[n / KINDS]);
                door.try_post(&path, &json!({})).await
            }
            _ => {
                let body = json!({"countId": "c1", "source": "warehouse", "locationId": "wh1",
                                  "countedAt": self.counted_at,
                                  "lines": [{"skuId": "hot", "counted": self.on_hand - 4}]});
                door.try_post("/api/inventory/counts", &body).await
            }
        }
    }

    /// Asks until there is an answer, and once more: that is the same.
    async fn insist(&self, door: &Door, n: usize) -> Value {
        let first = until("an answer", async || {
            self.ask(door, n).await.filter(|told| told.status != 503)
        })
        .await;
        let again = self.ask(door, n).await.expect("the gateway answers");
        let status = if n % KINDS == 3 { 200 } else { 201 };
        assert_eq!(
            (first.status, again.status, again.replayed),
            (status, status, true),
            "{first:?}"
        );
        assert_eq!(again.body, first.body, "the first answer again");
        first.body
    }

    /// So many rounds of all have happened, each once.
    async fn assert_once(&self, door: &Door, rounds: i64) {
        let here = stock(door, "wh1").await;
        assert_eq!(here["onHand"], self.on_hand - 4 + rounds * (2 - 3 - 5 + MANY), "{here}");
        assert_eq!(
            (&here["returned"], &here["damaged"], &here["unavailable"]),
            (&json!(2 * rounds), &json!(2 * rounds), &json!(2 * rounds))
        );
        assert_eq!(stock(door, "wh2").await["onHand"], 5 * rounds);
        door.settled().await;
    }
}

/// Everybody who needs this balance waits.
async fn hold(door: &Door) -> Transaction<'static, Postgres> {
    let mut held = door.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM inventory_balance WHERE location_id = 'wh1' FOR NO KEY UPDATE")
        .execute(&mut *held)
        .await
        .expect("locks");
    held
}

/// The backends that wait for a lock, once there are so many.
async fn waiting(door: &Door, count: usize) -> Vec<i32> {
    until("some that wait", async || {
        let pids: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_all(&door.pool)
        .await
        .ok()?;
        (pids.len() >= count).then_some(pids)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_and_asks_again_gets_the_first_answer() {
    let whole = Whole::empty().await;
    let calls = Calls::stock_up(&whole, 8).await;
    for n in 0..8 * KINDS {
        // A little later in the course of the call each time.
        let patience = Duration::from_micros(u64::try_from(n).expect("few") * 400);
        tokio::time::timeout(patience, calls.ask(&whole, n)).await.ok();
        calls.insist(&whole, n).await;
    }
    calls.assert_once(&whole, 8).await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_postgres_cuts_changes_nothing() {
    let whole = Whole::empty().await;
    let calls = Calls::stock_up(&whole, 1).await;
    let held = hold(&whole).await;
    let cut = async {
        let pids = waiting(&whole, KINDS).await;
        let cut = sqlx::query("SELECT pg_terminate_backend(pid) FROM UNNEST($1::int4[]) AS w(pid)").bind(pids);
        cut.execute(&whole.pool).await.expect("Postgres answers");
    };
    let (told, ()) = tokio::join!(join_all((0..KINDS).map(|n| calls.ask(&whole, n))), cut);
    for told in told.into_iter().flatten() {
        assert_eq!(told.problem(), (503, "LEDGER_UNAVAILABLE"), "{told:?}");
        assert!(told.retry_after.is_some());
    }
    held.rollback().await.expect("lets go");
    for n in 0..KINDS {
        calls.insist(&whole, n).await;
    }
    calls.assert_once(&whole, 1).await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_midway_has_done_nothing_twice() {
    let (whole, mut child) = pair().await;
    let calls = Calls::stock_up(&whole, 1).await;
    let held = hold(&whole).await;
    let door = (*child).clone();
    let asked = join_all((0..KINDS).map(|n| calls.ask(&door, n)));
    let die = async {
        waiting(&whole, KINDS).await;
        child.kill();
    };
    let (told, ()) = tokio::join!(tokio::time::timeout(PATIENCE, asked), die);
    let told = told.expect("the connections break");
    assert!(told.iter().all(Option::is_none), "{told:?}");
    held.rollback().await.expect("lets go");
    for n in 0..KINDS {
        calls.insist(&whole, n).await;
    }
    calls.assert_once(&whole, 1).await;
    whole.stop().await;
}

/// The sale has given its units up for a correction that never came.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_after_a_call_back_leaves_the_sale_whole() {
    let (whole, mut child) = pair().await;
    whole.sell("s", 100, json!({"buckets": 2})).await;
    whole.until_drained().await;
    let door = (*child).clone();
    let body = json!({"skuId": "hot", "locationId": "wh1", "delta": -30, "reason": "lost", "referenceId": "a1"});
    // No grant gets a number while the lanes are locked, so the units stay where they are until the correction's balance
    // is.
    let mut lanes = whole.pool.begin().await.expect("Postgres answers");
    let locked = sqlx::query("SELECT FROM lane FOR NO KEY UPDATE").execute(&mut *lanes);
    locked.await.expect("locks");
    let asked = door.try_post(ADJUSTMENTS, &body);
    let die = async {
        until("the call", async || {
            let called = "SELECT count(*) FROM lane_grant WHERE kind = 'take'";
            let called: i64 = sqlx::query_scalar(called).fetch_one(&whole.pool).await.ok()?;
            (called > 0).then_some(())
        })
        .await;
        let held = hold(&whole).await;
        lanes.rollback().await.expect("lets go");
        until("units in nobody's hand", async || {
            let back = "SELECT recalled FROM sale";
            let back: i64 = sqlx::query_scalar(back).fetch_one(&whole.pool).await.ok()?;
            (back >= 30).then_some(())
        })
        .await;
        waiting(&whole, 1).await;
        child.kill();
        held.rollback().await.expect("lets go");
    };
    let (told, ()) = tokio::join!(tokio::time::timeout(PATIENCE, asked), die);
    assert!(told.expect("the connection breaks").is_none());
    assert_eq!(stock(&whole, "wh1").await["onHand"], 100);
    until("all units, for sale again", async || {
        let sale = whole.sale("s").await;
        let buckets = sale["buckets"].as_array()?.iter();
        let left: i64 = buckets.filter_map(|bucket| bucket["remaining"].as_i64()).sum();
        (left == 100).then_some(())
    })
    .await;
    whole.settled().await;
    let again = until("an answer", async || {
        let told = whole.try_post(ADJUSTMENTS, &body).await;
        told.filter(|told| told.status != 503)
    })
    .await;
    assert_eq!(
        (again.status, again.replayed, &again.body["after"]["onHand"]),
        (201, false, &json!(70))
    );
    assert_eq!(whole.sale("s").await["allocation"], 70);
    whole.settled().await;
    whole.stop().await;
}

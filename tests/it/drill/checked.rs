//! Real clients at real gateways, one of which leaves in the middle: the judge finds nothing. Then something is planted
//! for each of its checks, in the ledger or in the history, and found.

use std::collections::BTreeSet;
use std::sync::Arc;

use flashgate::domain::lane::Nonce;
use flashgate::domain::reservation::{Ack, Status};
use flashgate::domain::reservation_id::{IdKey, Place, ReservationId};
use flashgate::drill::check::{Check, Verdict};
use flashgate::drill::history::{
    Action, Fault, Healed, History, Kind, Line, Loses, Operation, Outcome, Recorder, Settled,
};
use flashgate::ledger::{self, Ledger};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Notes, judged};
use crate::support::door::{Door, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::{home, shared};
use crate::support::socket::put_on_sale;

const CLIENTS: u32 = 12;
const REQUESTS: u32 = 60;
const UNITS: i64 = 40;

/// What is planted in the ledger, the check that must find it, and how; the last one leaves nothing whole.
const IN_LEDGER: [(Check, &str); 7] = [
    (
        Check::C1,
        "UPDATE inventory_event SET on_hand = coalesce(on_hand, 0) + 1
         WHERE event_id = (SELECT max(event_id) FROM inventory_movement)",
    ),
    (
        Check::C8,
        "UPDATE sale_bucket SET drift = 1 WHERE lane = (SELECT min(lane) FROM sale_bucket)",
    ),
    (Check::C5, "UPDATE sale SET per_user_limit = 1, per_user_limit_peak = 1"),
    (
        Check::C9,
        "UPDATE inventory_reservation SET status = 'EXPIRED'
         WHERE reservation_id = (SELECT reservation_id FROM inventory_reservation WHERE status = 'RELEASED' LIMIT 1)",
    ),
    (
        Check::C4,
        "UPDATE inventory_reservation SET key_hash = (
             SELECT key_hash FROM inventory_reservation WHERE status = 'RELEASED' LIMIT 1)
         WHERE reservation_id = (SELECT reservation_id FROM inventory_reservation WHERE status = 'COMMITTED' LIMIT 1)",
    ),
    (
        Check::C7,
        "UPDATE sale_bucket SET durable = durable + 1 WHERE lane = (SELECT min(lane) FROM sale_bucket)",
    ),
    (
        Check::C2,
        "DELETE FROM inventory_reservation
         WHERE reservation_id = (SELECT reservation_id FROM inventory_reservation WHERE status = 'COMMITTED' LIMIT 1)",
    ),
];

fn broken(verdict: &Verdict) -> BTreeSet<Check> {
    verdict.violations.iter().map(|violation| violation.check).collect()
}

/// Evades what keeps the ledger right.
async fn tamper(pool: &PgPool, sql: &str) {
    let sql = format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT");
    sqlx::raw_sql(&sql).execute(pool).await.expect("it can be planted");
}

/// One gateway leaves as a fault that loses nothing; the other serves on.
async fn leave(notes: &Notes, gateway: Whole, stays: &Door) {
    let from = notes.watch.now();
    gateway.stop().await;
    let fault = Fault {
        fault: "a gateway leaves".to_owned(),
        round: 1,
        from,
        to: notes.watch.now(),
        loses: Loses::Nothing,
    };
    notes.recorder.append(&Line::Fault(fault)).expect("room");
    stays.until_open().await;
    let healed = Healed {
        healed: notes.watch.now(),
        round: 1,
    };
    notes.recorder.append(&Line::Healed(healed)).expect("room");
}

/// What clients of two gateways saw of a sale, and the ledger after it.
async fn crowd() -> (History, Ledger, PgPool) {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let one = Whole::over(&redis_url, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    let extra = json!({"buckets": 2, "perUserLimit": 3, "draft": true});
    put_on_sale(&one, "checked", UNITS, extra).await;
    let home = home();
    let path = home.path().join("history.jsonl");
    let notes = Arc::new(Notes::new(
        Recorder::create(&path).expect("a file"),
        Notes::stopwatch(&one).await,
    ));
    notes.admin(&one, "checked", Action::Start, UNITS).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                number,
                doors: vec![(*one).clone(), (*other).clone()],
                sku: "checked",
                users: 40,
                notes: Arc::clone(&notes),
                stop: CancellationToken::new(),
            };
            tokio::spawn(client.live(REQUESTS))
        })
        .collect();
    until("busy clients", async || {
        (notes.count() >= u64::from(CLIENTS * REQUESTS / 3)).then_some(())
    })
    .await;
    leave(&notes, other, &one).await;
    for client in clients {
        client.await.expect("no client panics");
    }
    one.settled().await;
    let settled = Settled {
        settled: notes.watch.now(),
        round: 1,
        backlog: 0,
        drift: 0,
    };
    notes.recorder.append(&Line::Settled(settled)).expect("room");
    notes.recorder.flush().expect("room");
    let pool = one.pool.clone();
    one.stop().await;
    let ledger = Ledger::new(&ledger::Settings::new(&database_url)).expect("an address");
    (History::open(&path).expect("it was written"), ledger, pool)
}

/// The clients are not worth judging if this did not happen.
fn assert_busy(history: &History) {
    let count = |fits: &dyn Fn(&Operation) -> bool| history.operations.iter().filter(|op| fits(op)).count();
    let sold_out = count(&|op| op.code.as_deref() == Some("INSUFFICIENT_STOCK"));
    let limited = count(&|op| op.code.as_deref() == Some("USER_LIMIT_EXCEEDED"));
    let unheard = count(&|op| op.outcome == Outcome::Unknown);
    let accepted = count(&|op| op.ack == Some(Ack::Accepted));
    let replayed = count(&|op| op.replayed && op.kind == Kind::Reserve);
    let ended = count(&|op| op.outcome == Outcome::Ok && matches!(op.kind, Kind::Commit | Kind::Release));
    let all = [sold_out, limited, unheard, accepted, replayed, ended];
    assert!(all.iter().all(|count| *count > 0), "{all:?}");
}

/// A question that was answered well, with what it says changed.
fn answered(history: &mut History, change: impl FnOnce(&mut Operation)) {
    let is_one = |op: &&Operation| op.kind == Kind::Reserve && op.outcome == Outcome::Ok;
    let mut op = history
        .operations
        .iter()
        .find(is_one)
        .expect("somebody was served")
        .clone();
    op.op = 1_000_000;
    op.key = Some("planted".to_owned());
    op.returned = Some(op.invoked);
    change(&mut op);
    history.operations.push(op);
}

fn never_made() -> ReservationId {
    IdKey([0; 32]).seal(
        flashgate::domain::lane::LaneNo(0),
        Place::new(1, 1_000_000, 0, Nonce([3; 8])),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_clients_see_is_true_and_what_is_planted_is_found() {
    let (history, ledger, pool) = crowd().await;
    assert_busy(&history);
    let verdict = judged(&ledger, &history).await;
    assert_eq!(verdict.violations, []);
    assert!(
        verdict.checked.iter().all(|of| of.compared > 0),
        "{:?}",
        verdict.checked
    );

    let mut accepted = history.clone();
    answered(&mut accepted, |op| {
        op.reservation_id = Some(never_made());
        op.reservation_status = Some(Status::Reserved);
        op.ack = Some(Ack::Accepted);
    });
    assert_eq!(broken(&judged(&ledger, &accepted).await), BTreeSet::from([Check::C3]));

    let mut refused = history.clone();
    let start = refused
        .operations
        .iter()
        .find(|op| op.kind == Kind::Sale)
        .expect("a start");
    let begun = start.returned.expect("it was answered");
    answered(&mut refused, |op| {
        (op.invoked, op.returned, op.outcome) = (begun, Some(begun), Outcome::Refused);
        (op.code, op.available) = (Some("INSUFFICIENT_STOCK".to_owned()), Some(0));
        op.reservation_id = None;
    });
    assert_eq!(broken(&judged(&ledger, &refused).await), BTreeSet::from([Check::C6]));

    let mut found = BTreeSet::new();
    for (check, sql) in IN_LEDGER {
        tamper(&pool, sql).await;
        let verdict = judged(&ledger, &history).await;
        assert!(!found.contains(&check), "{check} was found before it was planted");
        found = broken(&verdict);
        assert!(found.contains(&check), "{check}: {:#?}", verdict.violations);
    }
    ledger.close().await;
}

//! Faults within the ledger.

use flashgate::domain::difference::{Figure, Kind};
use flashgate::domain::reservation::Ending;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::ledger::{Ledger, Settings};
use sqlx::ConnectOptions;
use uuid::Uuid;

use super::fair::Fair;
use crate::support::door::until;
use crate::support::ledger::Desk;

async fn open_reservation(fair: &Fair) -> ReservationId {
    let id: Uuid = sqlx::query_scalar(
        "SELECT reservation_id FROM inventory_reservation WHERE status = 'RESERVED' AND NOT explicit_key LIMIT 1",
    )
    .fetch_one(&fair.desk.pool)
    .await
    .expect("one is open");
    ReservationId(id)
}

#[tokio::test]
async fn an_event_that_is_gone_is_missed_everywhere() {
    let fair = Fair::busy().await;
    let id = open_reservation(&fair).await;
    fair.tamper(&format!(
        "DELETE FROM inventory_event WHERE reservation_id = '{}'",
        id.0
    ))
    .await;
    let kinds = [
        Kind::ReservationWithoutEvent,
        Kind::BalanceSum,
        Kind::EventGap,
        Kind::Bucket,
    ];
    let found = fair.assert_finds(&kinds).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].site.reservation_id, Some(id));
    assert_eq!(found[0].site.sku_id.as_deref(), Some("hot"));
}

#[tokio::test]
async fn an_event_that_tells_other_units_is_found() {
    let fair = Fair::busy().await;
    let id = open_reservation(&fair).await;
    fair.tamper(&format!(
        "UPDATE inventory_event SET reserved_delta = reserved_delta + 1 WHERE reservation_id = '{}'",
        id.0
    ))
    .await;
    let found = fair
        .assert_finds(&[
            Kind::ReservationEvents,
            Kind::BalanceSum,
            Kind::EventGap,
            Kind::EventShape,
        ])
        .await;
    assert_eq!(found[0].site.reservation_id, Some(id));
}

#[tokio::test]
async fn an_event_counted_twice_is_found() {
    let fair = Fair::busy().await;
    let id = open_reservation(&fair).await;
    fair.tamper(&format!(
        "CREATE TEMP TABLE again ON COMMIT DROP AS SELECT * FROM inventory_event WHERE reservation_id = '{}';
         UPDATE again SET event_id = nextval('inventory_event_id'); INSERT INTO inventory_event SELECT * FROM again",
        id.0
    ))
    .await;
    let kinds = [Kind::ReservationEvents, Kind::BalanceSum, Kind::EventGap, Kind::Bucket];
    let found = fair.assert_finds(&kinds).await;
    assert_eq!(found[0].site.reservation_id, Some(id));
}

#[tokio::test]
async fn a_reservation_without_its_event_is_found() {
    let fair = Fair::busy().await;
    let made = fair.context.flash.id_key().seal(
        fair.home("u1"),
        flashgate::domain::reservation_id::Place {
            epoch: 1,
            seq: 999,
            index: 0,
            nonce: [1, 2, 3],
        },
    );
    fair.tamper(&format!(
        "CREATE TEMP TABLE more ON COMMIT DROP AS SELECT * FROM inventory_reservation WHERE order_id = 'o0';
         UPDATE more SET reservation_id = '{}', order_id = 'ghost', status = 'RELEASED', explicit_key = false;
         INSERT INTO inventory_reservation SELECT * FROM more",
        made.0
    ))
    .await;
    let found = fair.assert_finds(&[Kind::ReservationWithoutEvent]).await;
    assert_eq!(found[0].site.reservation_id, Some(made));
}

#[tokio::test]
async fn a_reservation_that_is_gone_is_missed_by_events_and_record() {
    let fair = Fair::busy().await;
    let id = open_reservation(&fair).await;
    fair.tamper(&format!(
        "DELETE FROM inventory_reservation WHERE reservation_id = '{}'",
        id.0
    ))
    .await;
    let kinds = [
        Kind::EventWithoutReservation,
        Kind::BalanceReservations,
        Kind::Allocation,
        Kind::Bucket,
        Kind::KeyLeft,
        Kind::RecordUnknown,
    ];
    let found = fair.assert_finds(&kinds).await;
    assert_eq!(found[0].site.reservation_id, Some(id));
    assert_eq!(found[0].site.location_id.as_deref(), Some("wh1"));
}

#[tokio::test]
async fn a_balance_that_changed_without_an_event_is_found() {
    let fair = Fair::busy().await;
    fair.tamper("UPDATE inventory_balance SET on_hand = on_hand + 7").await;
    let found = fair.assert_finds(&[Kind::BalanceSum]).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].site.of.as_deref(), Some("on_hand"));
    assert_eq!(
        found[0].to_string(),
        "hot at wh1, on_hand: the balance and the sum of its events: expected 99, found 106"
    );
}

#[tokio::test]
async fn escrow_that_is_off_by_one_is_found() {
    let fair = Fair::busy().await;
    fair.tamper("UPDATE inventory_balance SET escrowed = escrowed - 1")
        .await;
    let found = fair.assert_finds(&[Kind::Escrow, Kind::BalanceSum]).await;
    assert_eq!(found[0].site.sku_id.as_deref(), Some("hot"));
}

#[tokio::test]
async fn a_grant_counted_twice_is_found_in_every_equation() {
    let fair = Fair::busy().await;
    let lane = fair.sale.lanes[0];
    fair.tamper(&format!(
        "UPDATE sale_bucket SET counter = counter + 50 WHERE lane = {lane}"
    ))
    .await;
    let found = fair
        .assert_finds(&[Kind::Counter, Kind::Escrow, Kind::Allocation])
        .await;
    assert_eq!(
        (found[0].site.lane, found[0].site.sale_id.as_deref()),
        (Some(lane), Some("hot"))
    );
    let (Figure::Number(expected), Figure::Number(was)) = (&found[0].expected, &found[0].found) else {
        panic!("{found:?}")
    };
    assert_eq!(expected - was, 50);
}

#[tokio::test]
async fn figures_that_are_no_sums_are_found() {
    let fair = Fair::busy().await;
    let lane = fair.sale.lanes[1];
    fair.tamper(&format!(
        "UPDATE sale_tally SET expired = expired + 1; UPDATE sale_bucket SET durable = durable - 1 WHERE lane = {lane}"
    ))
    .await;
    let found = fair.assert_finds(&[Kind::Tally, Kind::Bucket]).await;
    assert_eq!(found[0].site.of.as_deref(), Some("expired"));
}

#[tokio::test]
async fn a_user_with_more_than_was_ever_allowed_is_found() {
    let fair = Fair::open().await;
    for n in 0..4 {
        fair.reserve(&format!("u{n}"), &format!("o{n}"), 1, None).await;
    }
    fair.settle().await;
    fair.tamper("UPDATE inventory_reservation SET user_id = 'u0'").await;
    let report = fair.verify().await;
    let over: Vec<_> = report
        .differences
        .iter()
        .filter(|d| d.kind == Kind::UserLimit)
        .collect();
    assert_eq!(over.len(), 1, "{report}");
    assert_eq!(over[0].site.buyer.as_deref(), Some("u:u0"));
    assert_eq!(
        (&over[0].expected, &over[0].found),
        (&Figure::Number(3), &Figure::Number(4))
    );
}

#[tokio::test]
async fn keys_that_are_gone_or_left_are_found() {
    let fair = Fair::busy().await;
    let id = open_reservation(&fair).await;
    fair.tamper(&format!("DELETE FROM inventory_key WHERE subject_id = '{}'", id.0))
        .await;
    let found = fair.assert_finds(&[Kind::KeyMissing]).await;
    assert_eq!(found[0].site.reservation_id, Some(id));

    let fair = Fair::open().await;
    let id = fair.reserve("u0", "o0", 1, None).await;
    fair.settle().await;
    fair.tamper("CREATE TABLE kept AS SELECT * FROM inventory_key").await;
    fair.end(id, Ending::Release).await;
    fair.tamper("INSERT INTO inventory_key SELECT * FROM kept").await;
    let found = fair.assert_finds(&[Kind::KeyLeft]).await;
    assert_eq!(found[0].site.reservation_id, Some(id));
}

#[tokio::test]
async fn a_grant_that_is_gone_or_altered_is_found() {
    let fair = Fair::busy().await;
    let lane = fair.home("u6");
    fair.tamper("UPDATE lane_grant SET units = units + 1 WHERE grant_no IS NOT NULL")
        .await;
    let found = fair.assert_finds(&[Kind::Grants, Kind::Escrow, Kind::Allocation]).await;
    assert_eq!(found[0].site.lane, Some(lane));
    fair.tamper("UPDATE lane_grant SET units = units - 1 WHERE grant_no IS NOT NULL")
        .await;
    fair.assert_agrees().await;
    fair.tamper("UPDATE lane_grant SET grant_no = grant_no + 10 WHERE grant_no IS NOT NULL")
        .await;
    fair.assert_finds(&[Kind::Grants, Kind::QueueChain]).await;
}

/// How often grants have been read, by index or whole, by sessions that have ended: then they tell.
async fn reads_of_grants(desk: &Desk) -> i64 {
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'flashgate'";
    until("the end of the sessions", async || {
        (desk.count(sessions).await == 0).then_some(())
    })
    .await;
    desk.count("SELECT (seq_scan + coalesce(idx_scan, 0))::int8 FROM pg_stat_user_tables WHERE relname = 'lane_grant'")
        .await
}

#[tokio::test]
async fn grants_are_not_read_for_each_sale() {
    const SALES: i64 = 120;
    let desk = Desk::open().await;
    for n in 0..SALES {
        desk.sale(&format!("s{n}"), 10, None, 1).await;
    }
    desk.ledger.close().await;
    let url = desk.pool.connect_options().to_url_lossy();
    let own = Ledger::new(&Settings::new(url.as_str())).expect("an address");
    let lanes = own.lanes().await.expect("reads");
    own.close().await;
    let before = reads_of_grants(&desk).await;
    let own = Ledger::new(&Settings::new(url.as_str())).expect("an address");
    assert_eq!(own.audit().await.expect("reads").differences, []);
    assert_eq!(own.audit_live().await.expect("reads"), []);
    for lane in &lanes {
        own.lane_view(lane.lane).await.expect("reads");
    }
    own.close().await;
    let read = reads_of_grants(&desk).await - before;
    // Of grants that came and went, a million may lie about until a vacuum.
    assert!(0 < read && read < SALES / 2, "{read} times");
}

//! Faults within the ledger.

use flashgate::domain::difference::{Figure, Kind};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::reservation::Ending;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::sale::Sale;
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

/// How often grants have been read, by index or whole.
async fn reads_of_grants(desk: &Desk) -> i64 {
    desk.counted("seq_scan + coalesce(idx_scan, 0)", "lane_grant").await
}

#[tokio::test]
async fn grants_are_not_read_for_each_sale() {
    const SALES: i64 = 120;
    let desk = Desk::open().await;
    for n in 0..SALES {
        desk.sale(&format!("s{n}"), 10, None, 1).await;
    }
    desk.ledger.close().await;
    let ledger = desk.own();
    let lanes = ledger.lanes().await.expect("reads");
    ledger.close().await;
    let before = reads_of_grants(&desk).await;
    let own = desk.own();
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

/// Makes reservations of a sale in a lane that nothing else knows of; `picked` tells id, number, user and status.
pub(super) fn rows(sale: &Sale, lane: LaneNo, picked: &str) -> String {
    format!(
        "INSERT INTO inventory_reservation (reservation_id, order_id, user_id, sku_id, location_id, quantity, status,
             sale_no, lane, key_hash, fingerprint, explicit_key, trace_id, expires_at, created_at, updated_at)
         SELECT id, 'o' || n, buyer, '{}', '{}', 1, status::reservation_status, {}, {lane}, id, 0, false,
             md5('')::uuid, now() + interval '1 hour', now(), now()
         FROM ({picked}) AS picked(id, n, buyer, status)",
        sale.item.sku, sale.item.location, sale.no
    )
}

#[tokio::test]
async fn a_page_of_buyers_reads_no_others() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 1).await;
    desk.ledger.close().await;
    // Each has four.
    let many = "SELECT md5(n::text)::uuid, n, to_char(n / 4, 'FM00000'),
                    CASE WHEN n / 4 IN (6001, 6003) THEN 'EXPIRED' ELSE 'RESERVED' END FROM generate_series(0, 39999) AS n";
    sqlx::query(&rows(&sale, sale.lanes[0], many))
        .execute(&desk.pool)
        .await
        .expect("they are there");
    sqlx::query("ANALYZE inventory_reservation")
        .execute(&desk.pool)
        .await
        .expect("counted");
    let read = "seq_tup_read + coalesce(idx_tup_fetch, 0)";
    let before = desk.counted(read, "inventory_reservation%").await;
    let own = desk.own();
    let lane = sale.lanes[0];
    let step = async |after: &str, limit: i64| {
        let step = own.buyers_after(lane, sale.no, after, limit).await.expect("reads");
        (step.buyers, step.last, step.walked)
    };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let first = names(&["u:00000", "u:00001", "u:00002"]);
    assert_eq!(step("", 10).await, (first, Some("u:00002".into()), 10));
    assert_eq!(
        step("u:05000", 3).await,
        (names(&["u:05001"]), Some("u:05001".into()), 3)
    );
    // Who has ended is passed by, unless there may be more of the last one.
    assert_eq!(
        step("u:06000", 12).await,
        (names(&["u:06002", "u:06003"]), Some("u:06003".into()), 12)
    );
    assert_eq!(step("u:09999", 3).await, (Vec::new(), None, 0));
    own.close().await;
    let read = desk.counted(read, "inventory_reservation%").await - before;
    assert!(0 < read && read < 100, "{read} rows");
}

#[tokio::test]
async fn an_audit_holds_no_snapshot_longer_than_a_statement() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 1).await;
    let mut early = desk.pool.begin().await.expect("begins");
    sqlx::query("LOCK TABLE adjustment IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *early)
        .await
        .expect("locks");
    let meanwhile = async {
        until("it waits, midway", async || {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'adjustment'::regclass
                             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            (desk.count(waits).await > 0).then_some(())
        })
        .await;
        let one = "SELECT md5('')::uuid, 1, 'u', 'RESERVED'";
        desk.run(&rows(&sale, sale.lanes[0], one)).await;
        early.rollback().await.expect("ends");
    };
    let (audit, ()) = tokio::join!(desk.ledger.audit(), meanwhile);
    let audit = audit.expect("reads");
    let mut kinds = audit.differences.iter().map(|found| found.kind);
    assert!(kinds.any(|kind| kind == Kind::ReservationWithoutEvent), "{audit:?}");
}

#[tokio::test]
async fn many_of_one_kind_hide_none_of_another() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 1).await;
    // The last of all was refused, as its events say, and yet a unit came back of it; one before it was refused as well,
    // and yet reserved; and one is told of that was never there.
    let many =
        "SELECT CASE WHEN n < 2 THEN overlay('ffffffff-ffff-ffff-ffff-ffffffffffff' PLACING n::text FROM 36)::uuid
                    ELSE md5(n::text)::uuid END, n, 'u' || n, CASE WHEN n < 2 THEN 'REJECTED' ELSE 'RESERVED' END
                FROM generate_series(0, 1102) AS n";
    desk.run(&rows(&sale, sale.lanes[0], many)).await;
    desk.run(&format!(
        "INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, returned_delta, on_hand, reserved,
             unavailable, escrowed, sold, damaged, returned, reservation_id)
         VALUES ('inventory_returned', '{0}', '{1}', 1, 1, 0, 0, 0, 0, 0, 0, 1, 'ffffffff-ffff-ffff-ffff-fffffffffff0')",
        sale.item.sku, sale.item.location
    ))
    .await;
    desk.run(&format!(
        "INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, reserved_delta, on_hand, reserved,
             unavailable, escrowed, sold, damaged, returned, reservation_id)
         SELECT 'inventory_reserved', '{}', '{}', -1, 1, 0, 1, 0, 0, 0, 0, 0, id::uuid
         FROM UNNEST('{{ffffffff-ffff-ffff-ffff-fffffffffff1,ffffffff-ffff-ffff-ffff-fffffffffff2}}'::text[]) AS id",
        sale.item.sku, sale.item.location
    ))
    .await;
    let audit = desk.ledger.audit().await.expect("reads");
    let count = |kind| audit.differences.iter().filter(|found| found.kind == kind).count();
    assert_eq!(count(Kind::ReservationWithoutEvent), 1_000, "so many are named");
    assert_eq!(count(Kind::ReservationEvents), 1, "{:?}", audit.notes);
    assert_eq!(count(Kind::EventWithoutReservation), 1, "{:?}", audit.notes);
    assert_eq!(count(Kind::Returns), 1, "{:?}", audit.notes);
    let note = "inventory_reserved events of a reservation that is RESERVED";
    assert!(audit.notes.iter().any(|said| said.contains(note)), "{:?}", audit.notes);
}

#[tokio::test]
async fn a_look_at_buyers_planned_without_grants_reads_no_others() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 1).await;
    desk.ledger.close().await;
    let many = "SELECT md5(n::text)::uuid, n, 'u' || n, 'RESERVED' FROM generate_series(1, 50) AS n";
    let many = rows(&sale, sale.lanes[0], many);
    for statement in ["DELETE FROM lane_grant", "VACUUM lane_grant", &many] {
        sqlx::query(statement).execute(&desk.pool).await.expect("done");
    }
    let own = desk.own();
    let buyers: Vec<String> = (1..=50).map(|n| format!("u:u{n}")).collect();
    let look = async || {
        let view = own.buyers_view(sale.lanes[0], sale.no, &buyers, &[]).await;
        assert_eq!(view.expect("reads").rows.len(), 50);
    };
    // Postgres keeps a plan after five.
    for _ in 0..8 {
        look().await;
    }
    let grants = format!(
        "INSERT INTO lane_grant (lane, sale_no, kind, units, reservation_id, body)
         SELECT {}, {}, 'end', 1, md5(n::text || 'x')::uuid, '' FROM generate_series(1, 20000) AS n",
        sale.lanes[0], sale.no
    );
    sqlx::query(&grants).execute(&desk.pool).await.expect("done");
    look().await;
    own.close().await;
    let read = desk.counted("seq_tup_read", "lane_grant").await;
    assert!(read < 20_000, "{read} rows");
}

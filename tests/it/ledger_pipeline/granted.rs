//! Grants: numbered, delivered, durable; and what becomes of their units.

use flashgate::domain::entry::Body;
use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Durability;
use flashgate::domain::reservation::Cause;
use flashgate::domain::sale::SaleAction;
use flashgate::ledger::apply::Applied;
use flashgate::ledger::grants::Numbered;

use crate::support::ledger::{Desk, of_user, slip};
use crate::support::shop::release;

#[tokio::test]
async fn units_move_from_lane_to_lane() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 2).await;
    let mut one = desk.lane(sale.lanes[0]).await;
    let mut two = desk.lane(sale.lanes[1]).await;
    desk.deliver(&mut one).await;
    desk.deliver(&mut two).await;
    let ticket = desk
        .ledger
        .request_move(sale.no, sale.lanes[0], sale.lanes[1], 9)
        .await
        .expect("asks");
    let left = desk.ledger.grants_left(&[ticket]).await.expect("reads");
    assert_eq!((left.len(), left[0].lane, left[0].grant_no), (1, sale.lanes[0], None));
    let motion = desk.ledger.units_in_motion(sale.no).await.expect("reads");
    assert!(motion.taking && motion.moving, "{motion:?}");
    let done = desk.deliver(&mut one).await.expect("a take");
    assert_eq!(done.grants_for, [sale.lanes[1]]);
    assert_eq!(desk.ledger.grants_left(&[ticket]).await.expect("reads"), []);
    let motion = desk.ledger.units_in_motion(sale.no).await.expect("reads");
    assert!(!motion.taking && motion.moving, "{motion:?}");
    desk.assert_books_balance().await;
    desk.deliver(&mut two).await;
    assert_eq!(
        (desk.counter(&sale, &one).await, desk.counter(&sale, &two).await),
        (0, 10)
    );
    let motion = desk.ledger.units_in_motion(sale.no).await.expect("reads");
    assert!(!motion.ended && !motion.taking && !motion.moving, "{motion:?}");
    desk.assert_books_balance().await;
    desk.act("s", SaleAction::Stop).await;
    let motion = desk.ledger.units_in_motion(sale.no).await.expect("reads");
    assert!(motion.ended, "an empty bucket tells nothing any more: {motion:?}");
}

#[tokio::test]
async fn a_stopped_sale_gets_every_unit_back() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let slips = (0..5).map(|n| slip(&sale, &format!("o{n}"), 1)).collect();
    desk.reserve(&mut lane, &sale, slips).await;
    let ids: Vec<_> = (0..5).map(|index| desk.id(&lane, index)).collect();
    desk.end(release(ids[0])).await; // its unit is on the way when the sale ends
    desk.act("s", SaleAction::Stop).await;
    desk.end(release(ids[1])).await; // after the end: straight to the balance
    desk.assert_books_balance().await;
    let Numbered::Done { numbered, returned } = desk.number(&lane).await else {
        panic!("is ours")
    };
    assert_eq!((numbered, returned), (2, 1)); // settings and take; the end
    desk.assert_books_balance().await;
    desk.deliver(&mut lane).await;
    assert_eq!(desk.count("SELECT recalled FROM sale").await, 5);
    desk.assert_books_balance().await;
    assert!(desk.ledger.finish_drain(sale.no).await.expect("drains"));
    assert_eq!(desk.count("SELECT escrowed FROM inventory_balance").await, 0);
    assert_eq!(desk.count("SELECT reserved FROM inventory_balance").await, 3);
    desk.deliver(&mut lane).await; // the drop
    assert_eq!(desk.count("SELECT count(*) FROM lane_grant").await, 0);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn units_on_the_way_to_another_lane_come_home_when_the_sale_ends() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 2).await;
    let mut one = desk.lane(sale.lanes[0]).await;
    let mut two = desk.lane(sale.lanes[1]).await;
    desk.deliver(&mut one).await;
    desk.deliver(&mut two).await;
    desk.ledger
        .request_move(sale.no, sale.lanes[0], sale.lanes[1], 2)
        .await
        .expect("asks");
    assert_eq!(
        desk.number(&one).await,
        Numbered::Done {
            numbered: 1,
            returned: 0
        }
    );
    let taken = desk.deliver_only(&mut one).await.expect("a take");
    desk.act("s", SaleAction::Stop).await;
    desk.deliver(&mut two).await;
    desk.apply(&mut one, &[taken]).await; // only now: after the other lane was emptied
    desk.deliver(&mut one).await;
    desk.deliver(&mut two).await;
    desk.assert_books_balance().await;
    assert!(desk.ledger.finish_drain(sale.no).await.expect("drains"));
    assert_eq!(desk.count("SELECT escrowed FROM inventory_balance").await, 0);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_lane_that_was_given_what_the_ledger_did_not_number_stops() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    desk.ledger
        .request_move(sale.no, sale.lanes[0], sale.lanes[0], 2)
        .await
        .expect("asks");
    desk.number(&lane).await;
    let good = desk.deliver_only(&mut lane).await.expect("a take");
    let ledger = lane.road.grant_no;
    let mut ahead = good.clone();
    let mut other = good.clone();
    if let (Body::Grant { first, .. }, Body::Grant { delivered, .. }) = (&mut ahead.body, &mut other.body) {
        *first += 1;
        delivered[0].grant = Grant::Units(2);
    }
    let answer = desk.try_apply(&lane, &[ahead]).await.expect("answers");
    assert_eq!(
        answer,
        Applied::GrantsAhead {
            ledger,
            lane: ledger + 1
        }
    );
    let answer = desk.try_apply(&lane, &[other]).await.expect("answers");
    assert_eq!(answer, Applied::GrantsAhead { ledger, lane: ledger });
    assert_eq!(desk.count("SELECT count(*) FROM lane_grant").await, 1);
    desk.apply(&mut lane, &[good]).await;
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_limit_is_in_force_from_its_entry_on() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 20, Some(5)).await;
    let before = lane.road.reserve(sale.no, vec![of_user(slip(&sale, "a", 4), "ann")]);
    desk.run("UPDATE sale SET per_user_limit = 2").await;
    let settings = flashgate::domain::sale::LaneSettings {
        per_user_limit: 2,
        ..sale.settings()
    };
    sqlx::query("INSERT INTO lane_grant (lane, kind, sale_no, body) VALUES ($1, 'settings', $2, $3)")
        .bind(lane.road.lane.to_i16())
        .bind(sale.no)
        .bind(Grant::Settings(settings).pack())
        .execute(&desk.pool)
        .await
        .expect("inserts");
    desk.number(&lane).await;
    let change = desk.deliver_only(&mut lane).await.expect("settings");
    let after = lane.road.reserve(sale.no, vec![of_user(slip(&sale, "b", 3), "bob")]);
    let done = desk.apply(&mut lane, &[before, change, after]).await;
    assert_eq!((done.reserved, done.refused.len()), (1, 1));
    let limit = Durability::Rejected {
        cause: Cause::UserLimit,
        first: None,
    };
    assert_eq!(done.refused[0].durability, limit);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn numbers_have_no_gaps_whoever_adds() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 200, None).await;
    let slips = (0..100).map(|n| slip(&sale, &format!("o{n}"), 1)).collect();
    desk.reserve(&mut lane, &sale, slips).await;
    let ends: Vec<_> = (0..100).map(|index| release(desk.id(&lane, index))).collect();
    let endings = ends.chunks(10).map(|some| desk.ledger.end(some));
    let numbering = async {
        for _ in 0..10 {
            desk.number(&lane).await;
        }
    };
    let (ended, ()) = tokio::join!(futures::future::join_all(endings), numbering);
    assert!(ended.iter().all(Result::is_ok));
    desk.number(&lane).await;
    let last = desk.ledger.lane(lane.road.lane).await.expect("reads").grant_no;
    let waiting = desk.ledger.undelivered(lane.road.lane, 0, 1_000).await.expect("reads");
    let numbers: Vec<i64> = waiting.iter().map(|grant| grant.grant_no).collect();
    assert_eq!(numbers, (last - 99..=last).collect::<Vec<i64>>());
    desk.deliver(&mut lane).await;
    assert_eq!(desk.counter(&sale, &lane).await, 200);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn whether_units_move_is_seen_past_any_number_of_other_grants() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 2).await;
    let mut one = desk.lane(sale.lanes[0]).await;
    let mut two = desk.lane(sale.lanes[1]).await;
    desk.deliver(&mut one).await;
    desk.deliver(&mut two).await;
    desk.ledger.close().await;
    let own = desk.own();
    // Postgres keeps a plan after five, and of a table in which there is nothing.
    for _ in 0..8 {
        let motion = own.units_in_motion(sale.no).await.expect("reads");
        assert!(!motion.taking && !motion.moving, "{motion:?}");
        assert!(
            motion.lanes.iter().all(|of| !of.unnumbered && of.last.is_none()),
            "{motion:?}"
        );
    }
    let before = desk.count("SELECT count(*) FROM lane_grant").await;
    desk.run(&format!(
        "INSERT INTO lane_grant (lane, sale_no, grant_no, kind, units, reservation_id, body)
         SELECT {}, {}, 1000 + n, 'end', 1, md5(n::text)::uuid, '' FROM generate_series(1, 10000) AS n;
         INSERT INTO lane_grant (lane, sale_no, kind, units, reservation_id, body)
         SELECT {}, {}, 'end', 1, md5(n::text || 'x')::uuid, '' FROM generate_series(1, 10000) AS n",
        sale.lanes[0], sale.no, sale.lanes[1], sale.no
    ))
    .await;
    let motion = own.units_in_motion(sale.no).await.expect("reads");
    assert!(!motion.taking && !motion.moving, "{motion:?}");
    let mut lanes: Vec<_> = motion
        .lanes
        .iter()
        .map(|of| (of.lane, of.unnumbered, of.last))
        .collect();
    lanes.sort_by_key(|(lane, ..)| *lane);
    let mut expected = [(sale.lanes[0], false, Some(11_000)), (sale.lanes[1], true, None)];
    expected.sort_by_key(|(lane, ..)| *lane);
    assert_eq!(lanes, expected);
    own.close().await;
    let read = desk
        .counted("seq_tup_read + coalesce(idx_tup_fetch, 0)", "lane_grant")
        .await;
    assert!(before == 0 && read < 1_000, "{read} rows");
}

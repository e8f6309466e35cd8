//! What recovery makes of a queue that survived, and of a ledger that fell back.

use flashgate::domain::entry::Entry;
use flashgate::domain::grant::Grant;
use flashgate::domain::lane::{Cursor, Nonce};
use flashgate::domain::record::Record;
use flashgate::domain::reservation::Status;
use flashgate::domain::sale::Sale;
use flashgate::ledger::apply::Applied;
use flashgate::ledger::grants::NumberedGrant;
use flashgate::ledger::recovery::{LaneImage, Settled};

use crate::support::ledger::{Desk, Lane, of_user, slip, with_key};
use crate::support::shop::{commit, release};

const NONCE: Nonce = Nonce([77; 8]);

/// Closes the lane, settles what survived, and opens it; the road goes on at the new epoch.
async fn recover(desk: &Desk, lane: &mut Lane, survivors: &[Entry]) -> LaneImage {
    let epoch = desk
        .ledger
        .raise_epoch(&[lane.road.lane], lane.road.at.epoch)
        .await
        .expect("raises");
    let settled = desk
        .ledger
        .settle_lane(lane.road.lane, epoch, NONCE, survivors, &desk.id_key)
        .await;
    let Settled::Done(image) = settled.expect("settles") else {
        panic!("superseded")
    };
    desk.assert_books_balance().await;
    assert!(desk.ledger.open_lane(lane.road.lane, epoch).await.expect("opens"));
    lane.durable = Cursor {
        epoch,
        seq: 0,
        nonce: NONCE,
        total: 0,
    };
    lane.road.at = lane.durable;
    lane.road.free = image.sales.iter().map(|sale| (sale.sale.no, sale.counter)).collect();
    lane.road.grant_no = image.grant_no;
    assert_eq!(
        desk.ledger.lane(lane.road.lane).await.expect("reads").cursor,
        lane.durable
    );
    image
}

async fn records(desk: &Desk, lane: &Lane, sale: &Sale) -> Vec<(String, Record)> {
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = desk
            .ledger
            .lane_buyers(lane.road.lane, sale.no, after.as_deref(), 2)
            .await
            .expect("reads");
        records.extend(page.records);
        match page.next {
            Some(next) => after = Some(next),
            None => return records,
        }
    }
}

#[tokio::test]
async fn survivors_that_follow_the_cursor_are_taken_over() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, Some(4)).await;
    let applied = lane.road.reserve(sale.no, vec![of_user(slip(&sale, "a", 1), "ann")]);
    desk.apply(&mut lane, std::slice::from_ref(&applied)).await;
    desk.end(release(desk.id(&lane, 0))).await;
    desk.number(&lane).await;
    let delivered = desk.deliver_only(&mut lane).await.expect("an end");
    let queued = lane.road.reserve(
        sale.no,
        vec![of_user(slip(&sale, "b", 4), "bob"), of_user(slip(&sale, "c", 1), "bob")],
    );
    let (b, c) = (desk.id(&lane, 0), desk.id(&lane, 1));
    let old = lane.durable;
    let image = recover(&desk, &mut lane, &[applied, delivered, queued.clone()]).await;
    assert_eq!((image.applied, image.refused), (1, 1));
    assert_eq!(
        (desk.status(b).await, desk.status(c).await),
        ("RESERVED".into(), "REJECTED user_limit".into())
    );
    let lane_sale = &image.sales[0];
    // What was refused had been taken, too.
    assert_eq!((lane_sale.sale.no, lane_sale.counter, lane_sale.taken), (sale.no, 6, 6));
    // Nothing is given back to a lane that is rebuilt.
    assert_eq!(desk.count("SELECT count(*) FROM lane_grant").await, 0);
    assert_eq!(
        image.grant_no,
        desk.ledger.lane(lane.road.lane).await.expect("reads").grant_no
    );
    // The writer of before comes late.
    let late = Lane {
        durable: old,
        road: lane.road.clone(),
    };
    let mut stale = queued;
    (stale.prev, stale.seq) = (old.nonce, old.seq + 1);
    assert_eq!(
        desk.try_apply(&late, &[stale]).await.expect("answers"),
        Applied::NotOwner
    );
    // and the lane goes on
    let done = desk
        .reserve(&mut lane, &sale, vec![of_user(slip(&sale, "d", 1), "dan")])
        .await;
    assert_eq!((done.reserved, done.drift.len()), (1, 0));
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn of_a_fork_only_what_fits_is_taken_over() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 5, None).await;
    // Redis stepped back: two queues go on from one point, and the ledger has the first.
    let mut fork = lane.road.clone();
    let first = lane.road.reserve(sale.no, vec![slip(&sale, "a", 2)]);
    desk.apply(&mut lane, &[first]).await;
    let a = desk.id(&lane, 0);
    let other = fork.reserve(
        sale.no,
        vec![slip(&sale, "a", 1), slip(&sale, "b", 2), slip(&sale, "c", 2)],
    );
    let image = recover(&desk, &mut lane, std::slice::from_ref(&other)).await;
    assert_eq!((image.applied, image.refused, image.sales[0].counter), (1, 2, 1));
    let causes = "SELECT count(*) FROM inventory_reservation WHERE cause IN ('key_reused', 'surplus')";
    assert_eq!(desk.count(causes).await, 2);
    assert_eq!(desk.status(a).await, "RESERVED");
    // Once more: all of it is known.
    let image = recover(&desk, &mut lane, &[other]).await;
    assert_eq!((image.applied, image.refused, image.sales[0].counter), (0, 0, 1));
}

#[tokio::test]
async fn a_recovery_that_was_overtaken_writes_nothing() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 5, None).await;
    let queued = lane.road.reserve(sale.no, vec![slip(&sale, "a", 2)]);
    let road = lane.road.lane;
    let slow = desk.ledger.raise_epoch(&[road], 0).await.expect("raises");
    let fast = desk.ledger.raise_epoch(&[road], 0).await.expect("raises");
    let entries = [queued];
    let settled = desk
        .ledger
        .settle_lane(road, slow, NONCE, &entries, &desk.id_key)
        .await
        .expect("answers");
    assert_eq!(settled, Settled::Superseded);
    let settled = desk
        .ledger
        .settle_lane(road, fast, NONCE, &entries, &desk.id_key)
        .await
        .expect("answers");
    assert!(matches!(settled, Settled::Done(image) if image.applied == 1));
    assert!(!desk.ledger.open_lane(road, slow).await.expect("answers"));
    assert!(desk.ledger.open_lane(road, fast).await.expect("answers"));
    // Open lanes are not settled again.
    let settled = desk
        .ledger
        .settle_lane(road, fast, NONCE, &entries, &desk.id_key)
        .await
        .expect("answers");
    assert_eq!(settled, Settled::Superseded);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_ledger_that_fell_back_redoes_the_endings_it_had_delivered() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 6, None).await;
    let before = lane
        .road
        .reserve(sale.no, vec![slip(&sale, "a", 2), slip(&sale, "x", 1)]);
    desk.apply(&mut lane, std::slice::from_ref(&before)).await;
    let (a, x) = (desk.id(&lane, 0), desk.id(&lane, 1));
    // What the ledger forgot: b was reserved, a and b were released, their units sold again, to the same order.
    let b_entry = lane.road.reserve(sale.no, vec![slip(&sale, "b", 3)]);
    let b = desk.id(&lane, 0);
    let end = |id: flashgate::domain::reservation_id::ReservationId, grant_no, order: &str, quantity| NumberedGrant {
        grant_id: 0,
        grant_no,
        sale_no: sale.no,
        body: Grant::End {
            place: id.place(),
            quantity,
            status: Status::Released,
            buyer: format!("o:{order}"),
        }
        .pack(),
        waits_s: 0.0,
    };
    let next = lane.road.grant_no + 1;
    let ends = [end(a, next, "a", 2), end(b, next + 1, "b", 3)];
    let ends_entry = lane.road.deliver(&ends);
    let units = NumberedGrant {
        body: Grant::Units(50).pack(),
        ..end(a, next + 2, "", 0)
    };
    let units_entry = lane.road.deliver(&[units]);
    let again = lane
        .road
        .reserve(sale.no, vec![slip(&sale, "b", 3), slip(&sale, "a", 2)]);
    let b_again = desk.id(&lane, 0);
    // What the lane says can't be written as if nothing had happened ...
    let answer = desk
        .try_apply(&lane, &[b_entry.clone(), ends_entry.clone()])
        .await
        .expect("answers");
    assert!(matches!(answer, Applied::GrantsAhead { .. }), "{answer:?}");
    // ... so it is recovered.
    let image = recover(&desk, &mut lane, &[before, b_entry, ends_entry, units_entry, again]).await;
    assert_eq!((image.applied, image.refused, image.sales[0].counter), (3, 0, 0));
    assert_eq!(
        (desk.status(a).await, desk.status(b).await),
        ("RELEASED".into(), "RELEASED".into())
    );
    assert_eq!(
        (desk.status(x).await, desk.status(b_again).await),
        ("RESERVED".into(), "RESERVED".into())
    );
    assert_eq!(desk.count("SELECT released FROM sale_tally").await, 5);
    assert_eq!(desk.count("SELECT count(*) FROM inventory_key").await, 3);
    assert_eq!(image.grant_no, next - 1);
}

/// It has the ending and the grant, and has forgotten the number alone: the unit that came back is held by b by now.
#[tokio::test]
async fn a_ledger_that_forgot_a_number_refuses_nobody() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 2, None).await;
    let first = lane.road.reserve(sale.no, vec![slip(&sale, "a", 2)]);
    desk.apply(&mut lane, std::slice::from_ref(&first)).await;
    let a = desk.id(&lane, 0);
    desk.end(release(a)).await;
    let grant = Grant::End {
        place: a.place(),
        quantity: 2,
        status: Status::Released,
        buyer: "o:a".into(),
    };
    let numbered = NumberedGrant {
        grant_id: 0,
        grant_no: lane.road.grant_no + 1,
        sale_no: sale.no,
        body: grant.pack(),
        waits_s: 0.0,
    };
    let ended = lane.road.deliver(&[numbered]);
    let second = lane.road.reserve(sale.no, vec![slip(&sale, "b", 2)]);
    let b = desk.id(&lane, 0);
    let answer = desk
        .try_apply(&lane, &[ended.clone(), second.clone()])
        .await
        .expect("answers");
    assert!(matches!(answer, Applied::GrantsAhead { .. }), "{answer:?}");
    let image = recover(&desk, &mut lane, &[first, ended, second]).await;
    assert_eq!((image.applied, image.refused, image.sales[0].counter), (1, 0, 0));
    assert_eq!(
        (desk.status(a).await, desk.status(b).await),
        ("RELEASED".into(), "RESERVED".into())
    );
    assert_eq!(desk.count("SELECT count(*) FROM lane_grant").await, 0);
}

#[tokio::test]
async fn a_rebuilt_lane_knows_who_holds_what() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 50, None).await;
    let own = |order: &str, user: &str| of_user(with_key(slip(&sale, order, 1), order), user);
    let slips = vec![
        own("a", "ann"),                     // stays
        own("b", "ann"),                     // bought
        own("c", "ann"),                     // released, delivered: a tombstone
        own("d", "ann"),                     // released, not delivered: still live
        of_user(slip(&sale, "e", 2), "bob"), // released, delivered, no key: nothing
        slip(&sale, "f", 3),                 // the order is the buyer
        of_user(slip(&sale, "g", 1), "cid"),
        of_user(slip(&sale, "g2", 1), "dan"),
    ];
    desk.reserve(&mut lane, &sale, slips).await;
    let id = |index| desk.id(&lane, index);
    let ids: Vec<_> = (0..8).map(id).collect();
    desk.end(commit(ids[1], "p")).await;
    desk.end(release(ids[2])).await;
    desk.end(release(ids[4])).await;
    desk.deliver(&mut lane).await;
    desk.end(release(ids[3])).await;
    let records = records(&desk, &lane, &sale).await;
    let buyers: Vec<&str> = records.iter().map(|(buyer, _)| buyer.as_str()).collect();
    assert_eq!(buyers, ["o:f", "u:ann", "u:cid", "u:dan"]);
    let ann = &records[1].1;
    let places: Vec<_> = ann.live.iter().map(|live| live.place).collect();
    assert_eq!(places.len(), 3);
    for index in [0, 1, 3] {
        assert!(places.contains(&ids[index].place()));
    }
    assert_eq!((ann.tombstones.len(), ann.tombstones[0].place), (1, ids[2].place()));
    let f = &records[0].1.live[0];
    let asked = slip(&sale, "f", 3);
    assert_eq!(
        (f.units, f.key, f.line, f.explicit_key),
        (3, asked.key.head(), asked.line.head(), false)
    );
    assert_eq!(f.fingerprint, asked.fingerprint.0);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn grants_that_were_not_delivered_come_after_the_rebuilding() {
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10, None, 1).await;
    let mut lane = desk.lane(sale.lanes[0]).await;
    desk.number(&lane).await; // open and units have numbers; Redis dies before they come
    let image = recover(&desk, &mut lane, &[]).await;
    assert_eq!((image.sales.len(), image.grant_no), (0, 0));
    desk.deliver(&mut lane).await;
    assert_eq!(desk.counter(&sale, &lane).await, 10);
    let image = recover(&desk, &mut lane, &[]).await;
    assert_eq!((image.sales[0].counter, image.grant_no), (10, 2));
    // Drift goes with the lane that had it.
    *lane.road.free.get_mut(&sale.no).expect("it sells") -= 1;
    let done = desk.reserve(&mut lane, &sale, vec![slip(&sale, "a", 1)]).await;
    assert_eq!(done.drift.len(), 1);
    let image = recover(&desk, &mut lane, &[]).await;
    assert_eq!(image.sales[0].counter, 9);
    let done = desk.reserve(&mut lane, &sale, vec![slip(&sale, "b", 1)]).await;
    assert_eq!(done.drift, []);
    desk.assert_books_balance().await;
}

//! A batch is written once, by its lane's owner, wholly or not at all.

use flashgate::domain::lane::{Cursor, LaneNo, Nonce};
use flashgate::domain::time::Millis;
use flashgate::ledger::LedgerError;
use flashgate::ledger::apply::{Applied, Batch};
use uuid::Uuid;

use crate::support::ledger::{Desk, fresh, slip};

#[tokio::test]
async fn a_batch_becomes_durable_once() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let before = lane.durable;
    let first = lane
        .road
        .reserve(sale.no, vec![slip(&sale, "a", 2), slip(&sale, "b", 1)]);
    let (id_a, id_b) = (desk.id(&lane, 0), desk.id(&lane, 1));
    let second = lane.road.reserve(sale.no, vec![slip(&sale, "c", 3)]);
    let done = desk.apply(&mut lane, &[first.clone(), second.clone()]).await;
    assert_eq!((done.cursor, done.reserved), (lane.road.at, 3));
    assert_eq!((done.refused, done.drift, done.grants_for), (vec![], vec![], vec![]));
    assert_eq!(
        desk.ledger.lane(lane.road.lane).await.expect("reads").cursor,
        lane.road.at
    );
    // A commit whose answer was lost is tried again: the cursor is no longer where the batch says.
    lane.durable = before;
    let again = desk.try_apply(&lane, &[first, second]).await.expect("answers");
    assert_eq!(again, Applied::NotOwner);
    assert_eq!(desk.counter(&sale, &lane).await, 4);
    assert_eq!(desk.status(id_a).await, "RESERVED");
    let b = desk.ledger.reservation(id_b).await.expect("reads").expect("is there");
    assert_eq!(
        (b.order.as_str(), b.lines[0].quantity, b.created_at),
        ("b", 1, lane.road.time)
    );
    assert_eq!(b.expires_at, lane.road.time.plus_ms(900_000));
    let reserved =
        "SELECT count(*) FROM inventory_movement WHERE event_type = 'inventory_reserved' AND quantity_delta < 0";
    assert_eq!(desk.count(reserved).await, 3);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn only_who_names_the_cursor_as_the_owner_of_an_open_lane_writes() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let entry = lane.road.reserve(sale.no, vec![slip(&sale, "a", 1)]);
    let good = Batch {
        lane: lane.road.lane,
        owner: desk.owner,
        from: lane.durable,
        entries: std::slice::from_ref(&entry),
        id_key: &desk.id_key,
    };
    let stranger = Batch {
        owner: Uuid::new_v4(),
        ..good
    };
    assert_eq!(desk.ledger.apply(stranger).await.expect("answers"), Applied::NotOwner);
    let mut forked = entry.clone();
    forked.prev = Nonce([9; 8]);
    let fork = Batch {
        from: Cursor {
            nonce: Nonce([9; 8]),
            ..lane.durable
        },
        entries: &[forked],
        ..good
    };
    assert_eq!(desk.ledger.apply(fork).await.expect("answers"), Applied::NotOwner);
    desk.ledger.raise_epoch(&[lane.road.lane], 0).await.expect("raises");
    assert_eq!(desk.ledger.apply(good).await.expect("answers"), Applied::NotOwner);
    assert_eq!(desk.count("SELECT count(*) FROM inventory_reservation").await, 0);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn entries_that_do_not_follow_the_cursor_are_a_defect() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let _lost = lane.road.reserve(sale.no, vec![slip(&sale, "a", 1)]);
    let next = lane.road.reserve(sale.no, vec![slip(&sale, "b", 1)]);
    let error = desk.try_apply(&lane, &[next]).await.expect_err("a gap");
    assert!(matches!(error, LedgerError::Broken(_)), "{error}");
    let error = desk.try_apply(&lane, &[]).await.expect_err("nothing");
    assert!(matches!(error, LedgerError::Broken(_)), "{error}");
}

#[tokio::test]
async fn a_missing_day_is_made() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    lane.road.time = Millis(lane.road.time.0 - 5 * 86_400_000);
    let done = desk.reserve(&mut lane, &sale, vec![slip(&sale, "a", 1)]).await;
    assert_eq!((done.reserved, done.refused), (1, vec![]));
    let today = "SELECT count(*) FROM inventory_reservation WHERE created_at < now() - interval '4 days'";
    assert_eq!(desk.count(today).await, 1);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn lanes_that_claim_the_same_keys_at_once_do_not_deadlock() {
    const ORDERS: usize = 1_200;
    let desk = Desk::open().await;
    let sale = desk.sale("s", 10_000, None, 2).await;
    let mut lanes = Vec::new();
    for lane in &sale.lanes {
        let mut lane = desk.lane(*lane).await;
        desk.deliver(&mut lane).await;
        lanes.push(lane);
    }
    for round in 0..3 {
        let orders: Vec<String> = (0..ORDERS).map(|n| format!("o{round}-{n}")).collect();
        let mut batches = Vec::new();
        for (at, lane) in lanes.iter_mut().enumerate() {
            let mut slips: Vec<_> = orders.iter().map(|order| slip(&sale, order, 1)).collect();
            if at == 1 {
                slips.reverse(); // the second lane has them in the opposite order
            }
            let calls = slips.chunks(100).map(|call| lane.road.reserve(sale.no, call.to_vec()));
            batches.push((calls.collect::<Vec<_>>(), lane));
        }
        let both = batches.iter_mut().map(|(entries, lane)| desk.apply(lane, entries));
        let both = futures::future::join_all(both).await;
        assert_eq!(both.iter().map(|done| done.reserved).sum::<usize>(), ORDERS);
        assert_eq!(both.iter().map(|done| done.refused.len()).sum::<usize>(), ORDERS);
    }
    for lane in &mut lanes {
        desk.deliver(lane).await;
    }
    desk.assert_books_balance().await;
    // A deadlock would have been retried, and cost a second. Sessions report it when they end, if not before.
    desk.ledger.close().await;
    let ours = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'flashgate'";
    while desk.count(ours).await > 0 {
        tokio::task::yield_now().await;
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(desk.count(deadlocks).await, 0);
}

#[tokio::test]
async fn writers_and_endings_at_once_keep_the_books() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 400, None).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        let slips: Vec<_> = (0..25).map(|_| slip(&sale, &fresh("o"), 1)).collect();
        let entries = [lane.road.reserve(sale.no, slips)];
        let made: Vec<_> = (0..25).map(|index| desk.id(&lane, index)).collect();
        let ends: Vec<_> = ids.iter().map(|id| crate::support::shop::release(*id)).collect();
        let (done, answers) = tokio::join!(desk.apply(&mut lane, &entries), desk.ledger.end(&ends));
        assert_eq!(done.reserved, 25);
        assert_eq!(answers.expect("ends").len(), ends.len());
        ids = made;
        desk.assert_books_balance().await;
        desk.deliver(&mut lane).await;
    }
    assert_eq!(desk.counter(&sale, &lane).await, 400 - 25);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn an_epoch_is_greater_than_any_before_and_closes_its_lanes() {
    let desk = Desk::open().await;
    let lane = LaneNo(2);
    let first = desk.ledger.raise_epoch(&[lane], 0).await.expect("raises");
    let second = desk.ledger.raise_epoch(&[lane], first + 40).await.expect("raises");
    assert!(second > first + 40);
    let other = desk.ledger.raise_epoch(&[LaneNo(1)], 0).await.expect("raises");
    assert!(other > second);
    let row = desk.ledger.lane(lane).await.expect("reads");
    assert_eq!((row.epoch, row.open, row.cursor.epoch), (second, false, 0));
    // Not settled: nothing can be opened, and nothing older comes back.
    assert!(!desk.ledger.open_lane(lane, second).await.expect("answers"));
    assert!(!desk.ledger.open_lane(lane, first).await.expect("answers"));
}

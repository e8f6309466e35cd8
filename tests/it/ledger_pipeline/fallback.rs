//! What the ledger decides for a lane while Redis is away, and what neither side can do to the other meanwhile.

use std::sync::Arc;

use flashgate::domain::entry::Slip;
use flashgate::domain::id::SaleId;
use flashgate::domain::lane::{LaneNo, Nonce};
use flashgate::domain::outcome::Decision;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::sale::{RedisDown, Sale, SaleAction, SaleState};
use flashgate::ledger::apply::Applied;
use flashgate::ledger::fallback::{FallbackAnswer, FallbackAsk};
use flashgate::ledger::grants::Numbered;
use flashgate::ledger::recovery::{LaneImage, Settled};
use flashgate::ledger::sale_patch::{Patched, SalePatch};
use uuid::Uuid;

use crate::support::door::until;
use crate::support::ledger::{Desk, Lane, by, of_user, slip, with_key};
use crate::support::shop::release;

const NONCE: Nonce = Nonce([77; 8]);
/// What a gateway said counts for so long: a test may take its time.
const SILENT_MS: i64 = 600_000;

/// A live sale of so many units in one lane that may owe the ledger `undurable` of them, and falls back.
async fn selling(desk: &Desk, units: i64, limit: Option<u32>, undurable: u32) -> (Arc<Sale>, Lane) {
    let (sale, mut lane) = desk.selling("s", units, limit).await;
    let sale = patch(
        desk,
        &sale.id,
        SalePatch {
            redis_down: Some(RedisDown::Ledger),
            undurable_max: Some(Some(undurable)),
            ..SalePatch::default()
        },
    )
    .await;
    desk.deliver(&mut lane).await;
    (Arc::new(sale), lane)
}

async fn patch(desk: &Desk, id: &SaleId, patch: SalePatch) -> Sale {
    match desk.ledger.patch_sale(id, &patch, &by(), None).await.expect("answers") {
        Patched::Done(acted) => acted.sale,
        other => panic!("{other:?}"),
    }
}

async fn fall_back(desk: &Desk, lanes: &[LaneNo]) -> Vec<LaneNo> {
    let fallen = desk.ledger.fall_back(lanes, desk.owner, SILENT_MS).await;
    fallen.expect("answers")
}

async fn take_all(desk: &Desk, sale: &Arc<Sale>, slips: Vec<Slip>) -> Vec<FallbackAnswer> {
    let ask = |slip| FallbackAsk {
        sale: Arc::clone(sale),
        slip,
        rate_wait_ms: None,
        id_key: desk.id_key.clone(),
        nonce: Nonce(*Uuid::new_v4().as_bytes().first_chunk().expect("8 of 16")),
    };
    let asks: Vec<FallbackAsk> = slips.into_iter().map(ask).collect();
    let answers = desk.ledger.take_aside(&asks).await.expect("answers");
    desk.assert_books_balance().await;
    answers
}

async fn take(desk: &Desk, sale: &Arc<Sale>, slip: Slip) -> FallbackAnswer {
    take_all(desk, sale, vec![slip]).await.remove(0)
}

fn reserved(answer: &FallbackAnswer) -> ReservationId {
    match answer {
        FallbackAnswer::Decided(Decision::Reserved { id, .. }) => *id,
        other => panic!("{other:?}"),
    }
}

/// Recovers the lane with these survivors; what it is rebuilt from.
async fn recover(desk: &Desk, lane: &Lane, survivors: &[flashgate::domain::entry::Entry]) -> LaneImage {
    let (ledger, no) = (&desk.ledger, lane.road.lane);
    let epoch = ledger.raise_epoch(&[no], 0).await.expect("raises");
    let settled = ledger.settle_lane(no, epoch, NONCE, survivors, &desk.id_key).await;
    let Settled::Done(image) = settled.expect("settles") else {
        panic!("superseded")
    };
    assert!(ledger.open_lane(no, epoch).await.expect("opens"));
    desk.assert_books_balance().await;
    image
}

#[tokio::test]
async fn what_redis_accepted_before_has_its_units_and_what_comes_late_has_no_say() {
    let desk = Desk::open().await;
    let (sale, mut lane) = selling(&desk, 20, None, 4).await;
    let durable = lane.road.reserve(sale.no, vec![slip(&sale, "durable", 2)]);
    desk.apply(&mut lane, &[durable]).await;
    let before = lane.road.reserve(sale.no, vec![slip(&sale, "a", 3)]);
    let a = desk.id(&lane, 0);
    assert_eq!(fall_back(&desk, &[lane.road.lane]).await, [lane.road.lane]);
    // A gateway that has not heard of it goes on selling through Redis.
    let late = lane.road.reserve(sale.no, vec![slip(&sale, "b", 1)]);
    let b = desk.id(&lane, 0);
    for entries in [vec![before.clone()], vec![before.clone(), late.clone()]] {
        let applied = desk.try_apply(&lane, &entries).await.expect("answers");
        assert_eq!(applied, Applied::NotOwner, "its writer is shut out");
    }
    assert_eq!(desk.number(&lane).await, Numbered::NotOwner, "and its granter");
    assert!(
        !desk
            .ledger
            .open_lane(lane.road.lane, lane.road.at.epoch)
            .await
            .expect("answers")
    );

    // 18 are left, 4 of which may be gone in Redis.
    let answers = take_all(&desk, &sale, (0..8).map(|n| slip(&sale, &format!("f{n}"), 2)).collect()).await;
    let sold: Vec<ReservationId> = answers[..7].iter().map(reserved).collect();
    assert_eq!(answers[7], FallbackAnswer::KeptBack, "not sold out: they may come back");
    assert_eq!(
        take(&desk, &sale, slip(&sale, "g", 5)).await,
        FallbackAnswer::Decided(Decision::Insufficient { available: 4 }),
        "so many there are not, whatever comes back"
    );

    let image = recover(&desk, &lane, &[before.clone(), late.clone()]).await;
    assert_eq!((image.applied, image.refused), (2, 0), "each survivor has its units");
    let of = &image.sales[0];
    assert_eq!((of.counter, of.taken), (0, 20));
    for id in sold.into_iter().chain([a, b]) {
        assert_eq!(desk.status(id).await, "RESERVED");
    }
    // And once more, by whoever comes later still.
    assert_eq!(
        desk.try_apply(&lane, &[before]).await.expect("answers"),
        Applied::NotOwner
    );
    assert_eq!(take(&desk, &sale, slip(&sale, "h", 1)).await, FallbackAnswer::NotAside);
    let again = recover(&desk, &lane, &[late]).await;
    assert_eq!((again.applied, again.refused, again.sales[0].counter), (0, 0, 0));
}

#[tokio::test]
async fn a_fallback_ends_where_a_recovery_begins_and_never_during_one() {
    let desk = Desk::open().await;
    let (sale, lane) = selling(&desk, 20, None, 4).await;
    let no = lane.road.lane;
    let lock = desk.ledger.recovery_lock().await.expect("locks");
    assert_eq!(fall_back(&desk, &[no]).await, [], "somebody recovers");
    lock.release().await;
    let fallen = until("the end of the other's session", async || {
        Some(fall_back(&desk, &[no]).await).filter(|fallen| !fallen.is_empty())
    });
    assert_eq!(fallen.await, [no]);
    assert_eq!(fall_back(&desk, &[no]).await, [], "once is enough");
    assert!(desk.ledger.lane(no).await.expect("reads").fallback);
    let kept = reserved(&take(&desk, &sale, slip(&sale, "a", 1)).await);

    // A recovery that dies half way leaves the lane closed, and the ledger may decide again.
    let epoch = desk.ledger.raise_epoch(&[no], 0).await.expect("raises");
    assert!(!desk.ledger.lane(no).await.expect("reads").fallback);
    assert_eq!(take(&desk, &sale, slip(&sale, "b", 1)).await, FallbackAnswer::NotAside);
    assert_eq!(fall_back(&desk, &[no]).await, [no]);
    reserved(&take(&desk, &sale, slip(&sale, "b", 1)).await);
    let settled = desk.ledger.settle_lane(no, epoch, NONCE, &[], &desk.id_key).await;
    assert_eq!(settled.expect("answers"), Settled::Superseded, "it comes too late");
    let image = recover(&desk, &lane, &[]).await;
    assert_eq!(image.sales[0].counter, 18);
    assert_eq!(desk.status(kept).await, "RESERVED");
}

#[tokio::test]
async fn nobody_falls_back_while_another_gateway_reaches_the_lane() {
    let desk = Desk::open().await;
    let (_, lane) = selling(&desk, 20, None, 4).await;
    let (no, other) = (lane.road.lane, Uuid::new_v4());
    desk.ledger.beat(other, "other").await.expect("beats");
    assert_eq!(fall_back(&desk, &[no]).await, [], "it has not said what it reaches");
    desk.ledger.tell_reach(other, &[no]).await.expect("tells");
    assert_eq!(fall_back(&desk, &[no]).await, []);
    let beside: Vec<LaneNo> = (0..4).map(LaneNo).filter(|lane| *lane != no).collect();
    desk.ledger.tell_reach(other, &beside).await.expect("tells");
    assert_eq!(fall_back(&desk, &beside).await, [], "no sale there wants it");
    assert_eq!(fall_back(&desk, &[no]).await, [no]);
    recover(&desk, &lane, &[]).await;
    desk.ledger.tell_reach(other, &[no]).await.expect("tells");
    desk.run("UPDATE gateway SET beat_at = beat_at - interval '1 h'").await;
    assert_eq!(fall_back(&desk, &[no]).await, [no], "the silent have no say");
}

#[tokio::test]
async fn a_rate_needs_the_user_as_in_a_lane() {
    let desk = Desk::open().await;
    let (sale, lane) = selling(&desk, 20, None, 4).await;
    fall_back(&desk, &[lane.road.lane]).await;
    desk.run("UPDATE sale SET rate_per_second = 1, rate_burst = 1").await;
    assert_eq!(
        take(&desk, &sale, slip(&sale, "o1", 1)).await,
        FallbackAnswer::Decided(Decision::UserRequired)
    );
    reserved(&take(&desk, &sale, of_user(slip(&sale, "o1", 1), "ann")).await);
}

#[tokio::test]
async fn keys_orders_limits_and_settings_hold_as_in_a_lane() {
    let desk = Desk::open().await;
    let (sale, mut lane) = selling(&desk, 100, Some(3), 5).await;
    let first = with_key(of_user(slip(&sale, "o1", 2), "ann"), "k1");
    desk.reserve(&mut lane, &sale, vec![first.clone()]).await;
    let o1 = desk.id(&lane, 0);
    fall_back(&desk, &[lane.road.lane]).await;
    let decided = FallbackAnswer::Decided;
    assert_eq!(take(&desk, &sale, first.clone()).await, decided(Decision::Replayed(o1)));
    let other = Slip {
        quantity: 1,
        fingerprint: of_user(slip(&sale, "o9", 1), "ann").fingerprint,
        ..first.clone()
    };
    assert_eq!(take(&desk, &sale, other).await, decided(Decision::KeyReused));
    let again = with_key(of_user(slip(&sale, "o1", 1), "ann"), "k2");
    assert_eq!(
        take(&desk, &sale, again).await,
        decided(Decision::OrderAlreadyReserved(o1))
    );
    let limit = |held| decided(Decision::UserLimit { limit: 3, held });
    let of = |order: &str, units, user| of_user(slip(&sale, order, units), user);
    assert_eq!(take(&desk, &sale, of("o2", 2, "ann")).await, limit(2));
    assert_eq!(
        take(&desk, &sale, slip(&sale, "o3", 1)).await,
        decided(Decision::UserRequired)
    );
    // Those of one batch count, too; and a key sent twice in it is one.
    let batch = vec![
        of("o4", 2, "bob"),
        of("o4", 2, "bob"),
        of("o5", 2, "bob"),
        of("o6", 1, "bob"),
    ];
    let answers = take_all(&desk, &sale, batch).await;
    let o4 = reserved(&answers[0]);
    assert_eq!(answers[1..3], [decided(Decision::Replayed(o4)), limit(2)]);
    reserved(&answers[3]);
    let long = Slip {
        ttl_ms: 3_600_001,
        ..of("o7", 1, "cid")
    };
    assert_eq!(
        take(&desk, &sale, long).await,
        decided(Decision::TtlTooLong { hold_max_ms: 3_600_000 })
    );
    let wait = FallbackAsk {
        sale: Arc::clone(&sale),
        slip: of("o7", 1, "cid"),
        rate_wait_ms: Some(7),
        id_key: desk.id_key.clone(),
        nonce: NONCE,
    };
    let limited = decided(Decision::RateLimited { retry_after_ms: 7 });
    assert_eq!(desk.ledger.take_aside(&[wait]).await.expect("answers"), [limited]);

    desk.act("s", SaleAction::Pause).await;
    assert_eq!(
        take(&desk, &sale, of("o8", 1, "cid")).await,
        decided(Decision::NotLive(Some(SaleState::Paused)))
    );
    assert_eq!(
        take(&desk, &sale, first).await,
        decided(Decision::Replayed(o1)),
        "a replay is served all the same"
    );
    desk.act("s", SaleAction::Resume).await;
    patch(
        &desk,
        &sale.id,
        SalePatch {
            per_user_limit: Some(Some(1)),
            ..SalePatch::default()
        },
    )
    .await;
    assert_eq!(
        take(&desk, &sale, of("o8", 2, "cid")).await,
        decided(Decision::UserLimit { limit: 1, held: 0 }),
        "in force at once, whatever the gateway knows"
    );
    patch(
        &desk,
        &sale.id,
        SalePatch {
            redis_down: Some(RedisDown::Refuse),
            ..SalePatch::default()
        },
    )
    .await;
    assert_eq!(take(&desk, &sale, of("o8", 1, "cid")).await, FallbackAnswer::Refuses);
    desk.act("s", SaleAction::Stop).await;
    patch_refused(&desk, &sale).await;
    let image = recover(&desk, &lane, &[]).await;
    assert_eq!(image.sales[0].counter, 95);
    let page = desk
        .ledger
        .lane_buyers(lane.road.lane, sale.no, None, 10)
        .await
        .expect("reads");
    let buyers: Vec<(&str, usize)> = page
        .records
        .iter()
        .map(|(buyer, record)| (buyer.as_str(), record.live.len()))
        .collect();
    assert_eq!(buyers, [("u:ann", 1), ("u:bob", 2)], "the lane will know them");
}

async fn patch_refused(desk: &Desk, sale: &Sale) {
    let patch = SalePatch {
        redis_down: Some(RedisDown::Ledger),
        ..SalePatch::default()
    };
    let patched = desk
        .ledger
        .patch_sale(&sale.id, &patch, &by(), None)
        .await
        .expect("answers");
    assert_eq!(patched, Patched::Invalid(SaleState::Ended));
}

/// Grants that may have been delivered without the ledger's knowledge.
#[tokio::test]
async fn what_numbered_grants_may_have_taken_is_kept_back() {
    let desk = Desk::open().await;
    let (sale, mut lane) = selling(&desk, 20, None, 4).await;
    desk.ledger
        .request_move(sale.no, lane.road.lane, LaneNo((lane.road.lane.0 + 1) % 4), 9)
        .await
        .expect("asks");
    patch(
        &desk,
        &sale.id,
        SalePatch {
            undurable_max: Some(Some(6)),
            ..SalePatch::default()
        },
    )
    .await;
    desk.number(&lane).await;
    let delivered = desk.deliver_only(&mut lane).await.expect("a take and settings");
    let accepted = lane.road.reserve(sale.no, vec![slip(&sale, "a", 6)]);
    fall_back(&desk, &[lane.road.lane]).await;
    let answers = take_all(&desk, &sale, (0..6).map(|n| slip(&sale, &format!("f{n}"), 1)).collect()).await;
    answers[..5].iter().for_each(|answer| {
        reserved(answer);
    });
    assert_eq!(answers[5], FallbackAnswer::KeptBack, "9 may be on the move, 6 sold");
    let image = recover(&desk, &lane, &[delivered, accepted]).await;
    assert_eq!((image.applied, image.refused, image.sales[0].counter), (1, 0, 0));
    assert_eq!(desk.count("SELECT units FROM lane_grant WHERE kind = 'units'").await, 9);
}

#[tokio::test]
async fn a_lane_that_was_never_bounded_is_not_sold_from() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 20, None).await;
    let accepted = lane.road.reserve(sale.no, vec![slip(&sale, "a", 18)]);
    let change = SalePatch {
        redis_down: Some(RedisDown::Ledger),
        ..SalePatch::default()
    };
    let sale = Arc::new(patch(&desk, &sale.id, change).await);
    fall_back(&desk, &[lane.road.lane]).await;
    assert_eq!(take(&desk, &sale, slip(&sale, "b", 1)).await, FallbackAnswer::KeptBack);
    let image = recover(&desk, &lane, &[accepted]).await;
    assert_eq!((image.applied, image.refused), (1, 0));
    // The rebuilt lane is bounded.
    fall_back(&desk, &[lane.road.lane]).await;
    assert_eq!(
        take(&desk, &sale, slip(&sale, "b", 1)).await,
        FallbackAnswer::KeptBack,
        "2 are left, 5 are kept back"
    );
}

#[tokio::test]
async fn a_release_is_no_reason_to_say_sold_out() {
    let desk = Desk::open().await;
    let (sale, mut lane) = selling(&desk, 4, None, 1).await;
    desk.reserve(&mut lane, &sale, vec![slip(&sale, "a", 4)]).await;
    let a = desk.id(&lane, 0);
    fall_back(&desk, &[lane.road.lane]).await;
    let none = FallbackAnswer::Decided(Decision::Insufficient { available: 0 });
    assert_eq!(
        take(&desk, &sale, slip(&sale, "b", 1)).await,
        none,
        "all are sold, durably"
    );
    desk.end(release(a)).await;
    assert_eq!(
        take(&desk, &sale, slip(&sale, "b", 1)).await,
        FallbackAnswer::KeptBack,
        "they are on their way"
    );
    let grants = desk
        .count("SELECT count(*) FROM lane_grant WHERE kind = 'end' AND grant_no IS NULL")
        .await;
    assert_eq!(grants, 1);
    let image = recover(&desk, &lane, &[]).await;
    assert_eq!(image.sales[0].counter, 0);
}

#[tokio::test]
async fn units_of_other_buckets_are_fetched_where_those_are_aside_too() {
    let desk = Desk::open().await;
    let made = desk.sale("s", 40, None, 2).await;
    let change = SalePatch {
        redis_down: Some(RedisDown::Ledger),
        undurable_max: Some(Some(4)),
        ..SalePatch::default()
    };
    let sale = Arc::new(patch(&desk, &made.id, change).await);
    let mut lanes = Vec::new();
    for no in &sale.lanes {
        let mut lane = desk.lane(*no).await;
        desk.deliver(&mut lane).await;
        lanes.push(lane);
    }
    let home = sale.home("o:big");
    let other = *sale.lanes.iter().find(|lane| **lane != home).expect("two");
    fall_back(&desk, &[home]).await;
    let big = slip(&sale, "big", 30);
    assert_eq!(
        take(&desk, &sale, big.clone()).await,
        FallbackAnswer::KeptBack,
        "Redis has the other bucket"
    );
    fall_back(&desk, &[other]).await;
    let id = reserved(&take(&desk, &sale, big).await);
    assert_eq!(id.lane(), home);
    for lane in &lanes {
        let image = recover(&desk, lane, &[]).await;
        let (counter, taken) = (image.sales[0].counter, image.sales[0].taken);
        match lane.road.lane == home {
            true => assert_eq!((counter, taken), (2, 30), "what was kept back"),
            false => assert_eq!((counter, taken), (8, 0)),
        }
    }
}

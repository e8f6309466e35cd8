//! The queue: everything that a lane does is in it, in order, and the lane is nothing but what its queue says. And who
//! reads it: the writer, `peek`, and those who wait for durable.

use std::time::Duration;

use flashgate::domain::entry::{Body, Entry};
use flashgate::domain::grant::Grant;
use flashgate::domain::lane::{Cursor, Nonce};
use flashgate::domain::outcome::{Decision, Durability};
use flashgate::domain::reservation::{Cause, Status};
use flashgate::domain::reservation_id::{Place, ReservationId};
use flashgate::domain::sale::LaneSettings;
use flashgate::flash::{Flash, Notice, SettledCall, Waiting};

use crate::flash_model::{LaneModel, actual};
use crate::support::flash::{Buy, LANE, OPEN, OPENED, Rig, place_of, sale, until};

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

/// Two sales with reservations, refusals, endings and settings between them.
async fn busy(rig: &mut Rig) -> Vec<Decision> {
    rig.open(1, OPEN, 5).await;
    rig.open(2, LaneSettings { hold_ms: 9, ..OPEN }, 5).await;
    let requests = [
        (2, Buy::of("u", "a").key("k").units(2)),
        (1, Buy::anonymous("b").ttl_ms(77)),
        (1, Buy::of("u", "c").units(9)),
        (2, Buy::of("v", "d")),
    ];
    let answers = rig.reserve_all(&requests).await;
    let end = Grant::End {
        place: place_of(&answers[0]),
        quantity: 2,
        status: Status::Released,
        buyer: "u:u".into(),
    };
    let settings = Grant::Settings(LaneSettings {
        per_user_limit: 2,
        ..OPEN
    });
    rig.grant_all(
        LANE,
        &[(2, end), (1, Grant::Take { units: 3, target: None }), (1, settings)],
    )
    .await;
    rig.reserve_all(&[(1, Buy::of("w", "e"))]).await;
    answers
}

fn id(rig: &Rig, place: Place) -> ReservationId {
    rig.deployment.id_key.seal(LANE, place)
}

async fn tell(flash: &Flash, rig: &Rig, entry: &Entry, keep: Option<(u32, u64)>, refused: Vec<(u8, Durability)>) {
    let (seq, nonce, total) = (entry.seq, entry.nonce, entry.total);
    let epoch = entry.epoch;
    let cursor = Cursor {
        epoch,
        seq,
        nonce,
        total,
    };
    let notice = Notice {
        from: flash.gateway(),
        epoch,
        calls: vec![SettledCall { seq, nonce, refused }],
    };
    flash.tell_durable(LANE, cursor, &notice);
    flash
        .settle(LANE, cursor, keep, &notice, &[].into())
        .await
        .expect("Redis answers");
    assert_eq!(rig.epoch, epoch);
}

#[tokio::test]
async fn an_entry_says_exactly_what_was_done() {
    let mut rig = Rig::start().await;
    let answers = busy(&mut rig).await;
    let entries = rig.entries(LANE).await;
    assert_eq!(entries.len(), 5);
    let entry = &entries[2];
    assert_eq!((entry.epoch, entry.seq, entry.at, entry.total), (1, 3, OPENED, 3));
    let touched: Vec<_> = entry.touched.iter().map(|t| (t.sale_no, t.free, t.hold_ms)).collect();
    assert_eq!(touched, [(2, 2, 9), (1, 4, 60_000)], "in the order of the requests");
    let Body::Reserve(slips) = &entry.body else {
        panic!("{entry:?}")
    };
    let found: Vec<_> = slips
        .iter()
        .flatten()
        .map(|accepted| (accepted.sale, accepted.slip.clone()))
        .collect();
    let accepted = [
        (0, Buy::of("u", "a").key("k").units(2).slip()),
        (1, Buy::anonymous("b").ttl_ms(77).slip()),
        (0, Buy::of("v", "d").slip()),
    ];
    assert_eq!(found, accepted, "the accepted ones, in order, and not the refused one");
    for (index, answer) in (0u8..).zip([&answers[0], &answers[1], &answers[3]]) {
        assert_eq!(
            place_of(answer),
            Place::new(1, 3, index, entry.nonce),
            "ids name the entry"
        );
    }
}

#[tokio::test]
async fn a_lane_is_what_its_queue_says() {
    let mut rig = Rig::start().await;
    busy(&mut rig).await;
    rig.pass(1, 1_000).await;
    let mut model = LaneModel::opened(&rig);
    for entry in &rig.entries(LANE).await {
        model.apply(entry);
    }
    assert_eq!(actual(&rig).await, model);
    assert_eq!(model.sales[&2].free, 4, "5 - 2 - 1 + 2");
}

#[tokio::test]
async fn the_queue_tells_of_a_reservation_before_it_is_durable() {
    let mut rig = Rig::start().await;
    let answers = busy(&mut rig).await;
    let place = place_of(&answers[1]);
    let peeked = rig
        .flash
        .peek(id(&rig, place))
        .await
        .expect("Redis answers")
        .expect("it is queued");
    assert_eq!((peeked.sale_no, peeked.order.as_str(), peeked.quantity), (1, "b", 1));
    assert_eq!(
        (peeked.user, peeked.created_at, peeked.expires_at),
        (None, OPENED, OPENED.plus_ms(77))
    );
    let peeked = rig
        .flash
        .peek(id(&rig, place_of(&answers[3])))
        .await
        .expect("Redis answers")
        .expect("it is queued");
    assert_eq!(
        (peeked.sale_no, peeked.expires_at),
        (2, OPENED.plus_ms(9)),
        "the hold of its sale"
    );
    for other in [
        Place { seq: 1, ..place },
        Place { seq: 99, ..place },
        Place { epoch: 2, ..place },
        Place { index: 3, ..place },
        Place { nonce: [0; 3], ..place },
    ] {
        assert_eq!(
            rig.flash.peek(id(&rig, other)).await.expect("Redis answers"),
            None,
            "{other:?}"
        );
    }
}

#[tokio::test]
async fn a_reader_waits_for_the_next_entry() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let mut reader = rig.flash.queue_reader(LANE);
    until("a connection", async || reader.read(0, 0, 10, SOON).await.is_ok()).await;
    let first = reader.read(0, 0, 10, SOON).await.expect("Redis answers");
    assert_eq!(first.iter().map(|raw| raw.id).collect::<Vec<_>>(), [(1, 1)]);
    assert!(reader.read(1, 1, 10, SOON).await.expect("Redis answers").is_empty());
    let (buy, other) = (Buy::of("u", "o"), Buy::of("v", "p"));
    let (read, _) = tokio::join!(reader.read(1, 1, 10, Duration::from_millis(900)), rig.reserve(1, &buy));
    assert_eq!(read.expect("Redis answers")[0].id, (1, 2));
    rig.reserve(1, &other).await;
    assert_eq!(
        reader.read(1, 0, 2, SOON).await.expect("Redis answers").len(),
        2,
        "no more than was asked for"
    );
    reader.close().await;
}

#[tokio::test]
async fn settling_marks_what_is_durable_and_trims_only_what_it_may() {
    let mut rig = Rig::start().await;
    busy(&mut rig).await;
    let entries = rig.entries(LANE).await;
    let waiting = async |rig: &Rig| rig.flash.waiting(LANE).await.expect("Redis answers");
    let since = |depth, entry: &Entry| Waiting {
        depth,
        since: Some(entry.at),
    };
    assert_eq!(waiting(&rig).await, since(4, &entries[0]));
    let ids = async |rig: &Rig| {
        rig.entries(LANE)
            .await
            .iter()
            .map(|entry| entry.seq)
            .collect::<Vec<_>>()
    };
    tell(&rig.flash, &rig, &entries[2], None, vec![]).await;
    assert_eq!(waiting(&rig).await, since(1, &entries[3]), "a grant waits, too");
    assert_eq!(ids(&rig).await, [1, 2, 3, 4, 5], "nothing is trimmed unasked");
    tell(&rig.flash, &rig, &entries[3], Some((1, 3)), vec![]).await;
    assert_eq!(ids(&rig).await, [3, 4, 5]);
    let before = rig.dump().await;
    tell(&rig.flash, &rig, &entries[1], Some((1, 5)), vec![]).await;
    assert_eq!(
        rig.dump().await,
        before,
        "a late word moves nothing back and trims nothing"
    );
    tell(&rig.flash, &rig, &entries[4], None, vec![]).await;
    assert_eq!(waiting(&rig).await, Waiting::default());
    rig.reopen(|_| async {}).await;
    let before = rig.dump().await;
    let old = Cursor {
        epoch: 1,
        seq: 5,
        nonce: Nonce([0; 8]),
        total: 4,
    };
    let notice = Notice {
        from: rig.flash.gateway(),
        epoch: 1,
        calls: vec![],
    };
    rig.flash
        .settle(LANE, old, Some((1, 5)), &notice, &[].into())
        .await
        .expect("Redis answers");
    assert_eq!(rig.dump().await, before, "nor does one of an older epoch");
}

#[tokio::test]
async fn every_gateway_hears_what_became_durable_and_what_did_not() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let other = rig.gateway().await;
    let slips = [Buy::of("u", "a").slip(), Buy::of("v", "b").slip()];
    let sale = sale(1, &[LANE]);
    let asked = slips.iter().map(|slip| other.reserve(&sale, slip, true));
    let outcomes = futures::future::join_all(asked).await;
    let entry = rig.entries(LANE).await.pop().expect("an entry");
    let first = Some(id(&rig, Place::new(1, 1, 0, Nonce([3; 8]))));
    let refusal = Durability::Rejected {
        cause: Cause::Replay,
        first,
    };
    let mut told = false;
    for (outcome, expected) in outcomes.into_iter().zip([Durability::Durable, refusal]) {
        let outcome = outcome.expect("Redis answers");
        let watch = outcome.watch.expect("it was asked for");
        let place = place_of(&outcome.decision);
        if !told {
            assert_eq!(watch.wait(SOON).await, None, "nobody has told yet");
            // Its subscription may not stand yet; what is told twice is heard once.
            until("the word", async || {
                tell(&rig.flash, &rig, &entry, None, vec![(1, refusal)]).await;
                other.wait_durable(id(&rig, place), SOON).await.is_some()
            })
            .await;
            told = true;
        }
        for flash in [&other, &rig.flash] {
            assert_eq!(flash.wait_durable(id(&rig, place), LONG).await, Some(expected));
            let fork = Place { nonce: [8; 3], ..place };
            assert_eq!(
                flash.wait_durable(id(&rig, fork), SOON).await,
                None,
                "another call's word is not its"
            );
        }
        assert_eq!(watch.wait(LONG).await, Some(expected));
    }
}

#[tokio::test]
async fn every_gateway_hears_what_was_delivered() {
    let rig = Rig::start().await;
    let other = rig.gateway().await;
    assert!(!other.wait_delivered(7, SOON).await);
    until("the word", async || {
        rig.flash.tell_delivered(LANE, &[6, 7]).await;
        other.wait_delivered(7, SOON).await
    })
    .await;
    assert!(other.wait_delivered(6, LONG).await && rig.flash.wait_delivered(7, LONG).await);
    assert!(!other.wait_delivered(8, SOON).await);
}

/// How far the ledger is behind is told by calls made here that it is not past, and by nothing else.
#[tokio::test]
async fn a_replay_of_what_was_settled_long_ago_is_no_lag() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let (sale, old, new) = (sale(1, &[LANE]), Buy::of("u", "o").slip(), Buy::of("v", "p").slip());
    // Made through another gateway, so this one is never told of it.
    rig.gateway()
        .await
        .reserve(&sale, &old, false)
        .await
        .expect("Redis answers");
    let watch = async |slip| {
        let outcome = rig.flash.reserve(&sale, slip, true).await.expect("Redis answers");
        outcome.watch.expect("it was asked for")
    };
    assert_eq!(watch(&old).await.wait(SOON).await, None);
    assert_eq!(rig.flash.lag(LANE), Duration::ZERO);
    assert_eq!(watch(&new).await.wait(SOON).await, None);
    assert!(
        rig.flash.lag(LANE) >= SOON,
        "the ledger is behind, though nobody waits any more"
    );
    drop(watch(&new).await);
    assert!(rig.flash.lag(LANE) >= SOON, "whoever asks again changes nothing");
    let entry = rig.entries(LANE).await.pop().expect("an entry");
    tell(&rig.flash, &rig, &entry, None, vec![]).await;
    assert_eq!(rig.flash.lag(LANE), Duration::ZERO);
}

#[tokio::test]
async fn a_notice_that_was_missed_is_no_lag_once_a_later_one_is_heard() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let sale = sale(1, &[LANE]);
    let mut watches = Vec::new();
    for order in ["a", "b", "c"] {
        let outcome = rig.flash.reserve(&sale, &Buy::of("u", order).slip(), true).await;
        watches.push(outcome.expect("Redis answers").watch.expect("it was asked for"));
    }
    let entries = rig.entries(LANE).await;
    tell(&rig.flash, &rig, &entries[2], None, vec![]).await;
    assert!(rig.flash.lag(LANE) > Duration::ZERO, "the third is not durable yet");
    tell(&rig.flash, &rig, &entries[3], None, vec![]).await;
    assert_eq!(rig.flash.lag(LANE), Duration::ZERO);
    assert_eq!(
        watches[0].wait(SOON).await,
        None,
        "but only its own notice is an answer"
    );
    tell(&rig.flash, &rig, &entries[1], None, vec![]).await;
    assert_eq!(watches[0].wait(LONG).await, Some(Durability::Durable));
}

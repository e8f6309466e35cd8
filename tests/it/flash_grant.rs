//! `grant.lua`, row by row: what each grant does, and that each is done once, in order.

use flashgate::domain::entry::Slip;
use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Decision::{Ended, NotLive, Reserved};
use flashgate::domain::record::{Live, RECORD_MAX, Record, Tombstone};
use flashgate::domain::reservation::Status;
use flashgate::domain::reservation_id::Place;
use flashgate::domain::sale::{LaneSettings, SaleState};
use flashgate::flash::{Delivery, GRANTS_STEP};

use crate::support::flash::{Buy, LANE, OPEN, OPENED, Rig, place_of};

const NOWHERE: Place = Place {
    epoch: 1,
    seq: 999,
    index: 0,
    nonce: [0; 3],
};

fn end(place: Place, quantity: u32, status: Status) -> Grant {
    Grant::End {
        place,
        quantity,
        status,
        buyer: "u:u".into(),
    }
}

fn retake(slip: &Slip, place: Place) -> Grant {
    Grant::Retake {
        place,
        quantity: slip.quantity,
        explicit_key: slip.explicit_key,
        key: slip.key,
        fingerprint: slip.fingerprint,
        line: slip.line,
        buyer: slip.buyer(),
    }
}

#[tokio::test]
async fn units_and_corrections_move_the_counter() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    for (grant, outcome, free) in [
        (Grant::Units(7), 1, 12),
        (Grant::Correct(3), 1, 15),
        (Grant::Correct(-20), 1, -5),
        (Grant::Take { units: 3, target: None }, 0, -5),
        (Grant::Units(9), 1, 4),
        (Grant::Take { units: 3, target: None }, 3, 1),
        (Grant::TakeWhole(2), 0, 1),
        (Grant::Units(2), 1, 3),
        (Grant::TakeWhole(2), 2, 1),
        (
            Grant::Take {
                units: u32::MAX,
                target: None,
            },
            1,
            0,
        ),
    ] {
        assert_eq!(rig.grant(1, grant.clone()).await, outcome, "{grant:?}");
        assert_eq!(rig.free(1).await, Some(free), "{grant:?}");
    }
}

#[tokio::test]
async fn an_ending_takes_the_entry_away_and_gives_the_units_back() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 100).await;
    let buys = [
        (Buy::of("u", "a").key("ka"), Status::Released, true),
        (Buy::of("u", "b").key("kb"), Status::Expired, true),
        (Buy::of("u", "c").key("kc"), Status::Rejected, false),
        (Buy::of("u", "d"), Status::Released, false),
        (Buy::of("u", "e"), Status::Expired, false),
    ];
    let mut expected = Record::default();
    for (buy, status, leaves_tombstone) in buys {
        let (buy, free) = (buy.units(2), rig.free(1).await);
        let place = rig.place(1, &buy).await;
        expected.live.push(Live::of(&buy.slip(), place));
        assert_eq!(rig.record(1, "u:u").await, expected);
        assert_eq!(rig.grant(1, end(place, 2, status)).await, 1);
        expected.live.pop();
        if leaves_tombstone {
            let key = buy.slip().key.head();
            expected.tombstones.push(Tombstone { key, place });
        }
        assert_eq!(rig.record(1, "u:u").await, expected, "{status:?}");
        assert_eq!(rig.free(1).await, free);
    }
}

#[tokio::test]
async fn a_record_without_anything_left_in_it_is_gone() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 1).await;
    let place = rig.place(1, &Buy::of("u", "o")).await;
    rig.grant(1, end(place, 1, Status::Released)).await;
    assert_eq!(
        rig.flash.scan_buyers(LANE, 1, None).await.expect("Redis answers"),
        (vec![], None)
    );
}

#[tokio::test]
async fn units_of_an_entry_that_is_not_there_come_back_all_the_same() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 1).await;
    rig.place(1, &Buy::of("u", "o")).await;
    let before = rig.record(1, "u:u").await;
    assert_eq!(rig.grant(1, end(NOWHERE, 4, Status::Released)).await, 0);
    assert_eq!(rig.free(1).await, Some(4));
    assert_eq!(rig.record(1, "u:u").await, before);
}

#[tokio::test]
async fn the_oldest_of_65_tombstones_goes() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 1).await;
    let mut tombstones = Vec::new();
    for i in 0..=RECORD_MAX {
        let buy = Buy::of("u", &format!("o{i}")).key(&format!("k{i}"));
        let place = rig.place(1, &buy).await;
        rig.grant(1, end(place, 1, Status::Released)).await;
        let key = buy.slip().key.head();
        tombstones.push(Tombstone { key, place });
    }
    assert_eq!(rig.record(1, "u:u").await.tombstones, tombstones[1..]);
    let second = Buy::of("u", "o1").key("k1");
    let known = rig.deployment.id_key.seal(LANE, tombstones[1].place);
    assert_eq!(rig.reserve(1, &second).await, Ended(known));
    rig.place(1, &Buy::of("u", "o0").key("k0")).await;
}

#[tokio::test]
async fn a_sale_comes_with_its_settings_and_goes_without_a_trace() {
    let mut rig = Rig::start().await;
    let nothing = rig.dump().await;
    rig.grant(1, Grant::Open(OPEN)).await;
    assert_eq!(rig.free(1).await, Some(0));
    rig.grant(1, Grant::Units(5)).await;
    let rated = LaneSettings {
        hold_ms: 7,
        rate_milli: 1,
        rate_burst: 9,
        ..OPEN
    };
    rig.grant(1, Grant::Settings(rated)).await;
    let answer = rig.reserve(1, &Buy::of("u", "o")).await;
    assert!(matches!(answer, Reserved { expires_at, .. } if expires_at == OPENED.plus_ms(7)));
    assert_eq!(rig.free(1).await, Some(4), "settings leave the counter alone");
    let meta = rig.flash.lane_meta(LANE).await.expect("Redis answers").expect("a lane");
    assert_eq!(meta.grant_no, 3);
    assert_eq!(rig.flash.lane_sales(LANE).await.expect("Redis answers"), [1]);
    rig.grant(1, Grant::Drop).await;
    assert_eq!(rig.flash.lane_sales(LANE).await.expect("Redis answers"), [0; 0]);
    let keys: Vec<_> = rig
        .dump()
        .await
        .into_keys()
        .filter(|key| !key.ends_with(":queue"))
        .collect();
    assert_eq!(keys, nothing.into_keys().collect::<Vec<_>>());
    assert_eq!(rig.reserve(1, &Buy::of("u", "o")).await, NotLive(None));
}

#[tokio::test]
async fn a_retake_restores_the_reservation_under_its_old_place() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let buy = Buy::of("u", "o").units(5).key("k");
    let place = rig.place(1, &buy).await;
    let before = rig.record(1, "u:u").await;
    rig.grant(1, end(place, 5, Status::Rejected)).await;
    let slip = buy.slip();
    assert_eq!(rig.grant(1, retake(&slip, place)).await, 1);
    assert_eq!((rig.record(1, "u:u").await, rig.free(1).await), (before, Some(0)));
    assert_eq!(rig.grant(1, retake(&slip, place)).await, 0, "held already");
    rig.grant(1, Grant::Units(5)).await;
    assert_eq!(
        rig.grant(1, retake(&slip, place)).await,
        0,
        "the line is held, whatever is free"
    );
    rig.grant(1, end(place, 5, Status::Rejected)).await;
    rig.grant(1, Grant::Take { units: 6, target: None }).await;
    assert_eq!(rig.grant(1, retake(&slip, place)).await, 0, "only 4 are free");
    assert_eq!(
        (rig.record(1, "u:u").await, rig.free(1).await),
        (Record::default(), Some(4))
    );
}

#[tokio::test]
async fn a_retake_finds_no_room_in_a_full_record() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 100).await;
    let requests: Vec<_> = (0..64).map(|i| (1, Buy::of("u", &format!("o{i}")))).collect();
    rig.reserve_all(&requests).await;
    let slip = Buy::of("u", "one more").slip();
    assert_eq!(rig.grant(1, retake(&slip, NOWHERE)).await, 0);
    assert_eq!(
        (rig.record(1, "u:u").await.live.len(), rig.free(1).await),
        (64, Some(36))
    );
}

#[tokio::test]
async fn a_record_is_replaced_only_as_it_was_found() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let place = rig.place(1, &Buy::of("u", "o")).await;
    let found = rig.record(1, "u:u").await;
    let replaced = Record {
        live: vec![Live::of(&Buy::of("u", "p").units(2).slip(), NOWHERE)],
        tombstones: vec![],
    };
    let step = |old: &Record, new: &Record| {
        let pack = |record: &Record| {
            if record == &Record::default() {
                vec![]
            } else {
                record.pack()
            }
        };
        let (old, new) = (pack(old), pack(new));
        Grant::Record {
            buyer: "u:u".into(),
            old,
            new,
        }
    };
    let none = Record::default();
    for (old, new, outcome, after) in [
        (&none, &replaced, 0, &found),
        (&replaced, &none, 0, &found),
        (&found, &replaced, 1, &replaced),
        (&found, &none, 0, &replaced),
        (&replaced, &none, 1, &none),
        (&none, &found, 1, &found),
    ] {
        assert_eq!(rig.grant(1, step(old, new)).await, outcome);
        assert_eq!(&rig.record(1, "u:u").await, after);
    }
    assert_eq!(rig.free(1).await, Some(4), "no units go with it");
    assert_eq!(rig.grant(1, end(place, 1, Status::Released)).await, 1);
}

/// Within one call a record that was emptied is none, as it is for the next call.
#[tokio::test]
async fn an_emptied_record_is_none_within_the_call() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let slip = Buy::of("u", "o").slip();
    let place = rig.place(1, &Buy::of("u", "o")).await;
    let held = rig.record(1, "u:u").await.pack();
    let none = Vec::new;
    let record = |old: Vec<u8>, new: Vec<u8>| {
        (
            1,
            Grant::Record {
                buyer: "u:u".into(),
                old,
                new,
            },
        )
    };
    let outcomes = rig
        .grant_all(
            LANE,
            &[
                record(held.clone(), none()),
                (1, end(place, 1, Status::Released)),
                (1, retake(&slip, place)),
                (1, end(place, 1, Status::Released)),
                record(none(), held.clone()),
            ],
        )
        .await;
    assert_eq!(outcomes, [1, 0, 1, 1, 1]);
    assert_eq!((rig.record(1, "u:u").await.pack(), rig.free(1).await), (held, Some(5)));
}

#[tokio::test]
async fn each_grant_is_done_once_and_in_order() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 1).await;
    let units = |n: u32| (1, Grant::Units(n));
    let all = [units(10), units(100), units(1_000), units(10_000)];
    assert_eq!(
        rig.deliver(LANE, 3, &all[..2]).await.expect("in order"),
        Delivery::InForce(4)
    );
    let before = rig.dump().await;
    for (first, grants, delivery) in [
        (3, &all[..2], Delivery::InForce(4)),
        (4, &all[1..2], Delivery::InForce(4)),
        (1, &all[..1], Delivery::InForce(4)),
        (5, &all[..0], Delivery::InForce(4)),
        (6, &all[3..], Delivery::Gap(4)),
        (600, &all[..], Delivery::Gap(4)),
    ] {
        assert_eq!(rig.deliver(LANE, first, grants).await.expect("it answers"), delivery);
        assert_eq!(rig.dump().await, before, "{first}");
    }
    let overlapping = rig.deliver(LANE, 3, &all).await.expect("it answers");
    assert_eq!(overlapping, Delivery::InForce(6));
    assert_eq!(rig.free(1).await, Some(11_111), "only the new ones are added");
    let last = rig.entries(LANE).await.pop().expect("its entry").body;
    assert!(matches!(last, flashgate::domain::entry::Body::Grant { first: 5, delivered } if delivered.len() == 2));
}

#[tokio::test]
async fn one_delivery_serves_several_sales() {
    let mut rig = Rig::start().await;
    let paused = LaneSettings {
        state: SaleState::Paused,
        ..OPEN
    };
    let grants = [
        (7, Grant::Open(OPEN)),
        (8, Grant::Open(paused)),
        (9, Grant::Units(99)),
        (7, Grant::Units(70)),
        (8, Grant::Units(80)),
        (7, Grant::Take { units: 9, target: None }),
    ];
    assert_eq!(rig.grant_all(LANE, &grants).await, [1, 1, 1, 1, 1, 9]);
    let free = [rig.free(7).await, rig.free(8).await, rig.free(9).await];
    assert_eq!(
        free,
        [Some(61), Some(80), None],
        "a sale that was not opened stays unknown"
    );
    let touched = rig.entries(LANE).await.pop().expect("its entry").touched;
    assert_eq!(touched.iter().map(|sale| sale.sale_no).collect::<Vec<_>>(), [7, 8, 9]);
}

#[tokio::test]
async fn a_whole_step_of_endings_fits_one_call() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 500).await;
    let requests: Vec<_> = (0..GRANTS_STEP)
        .map(|i| (1, Buy::anonymous(&format!("o{i}"))))
        .collect();
    let mut grants = Vec::new();
    for chunk in requests.chunks(128) {
        for (answer, (_, buy)) in rig.reserve_all(chunk).await.iter().zip(chunk) {
            let buyer = buy.slip().buyer();
            let (place, status) = (place_of(answer), Status::Expired);
            grants.push((
                1,
                Grant::End {
                    place,
                    quantity: 1,
                    status,
                    buyer,
                },
            ));
        }
    }
    assert_eq!(rig.free(1).await, Some(0));
    assert_eq!(rig.grant_all(LANE, &grants).await, vec![1; GRANTS_STEP]);
    assert_eq!(rig.free(1).await, Some(500));
}

//! `reserve.lua`, row by row: what each request is answered, which answer wins where several apply, and that a
//! refused request leaves nothing behind.

use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Decision::{self, *};
use flashgate::domain::reservation::Status;
use flashgate::domain::reservation_id::Place;
use flashgate::domain::sale::{LaneSettings, SaleState};
use flashgate::domain::time::Millis;
use flashgate::flash::Settings;

use crate::support::flash::{Buy, LANE, OPEN, OPENED, Rig, place_of, reserve_all};

fn id(rig: &Rig, place: Place) -> flashgate::domain::reservation_id::ReservationId {
    rig.deployment.id_key.seal(LANE, place)
}

/// Ends a reservation of user `u`.
async fn end(rig: &mut Rig, place: Place, status: Status) {
    let end = Grant::End {
        place,
        quantity: 1,
        status,
        buyer: "u:u".into(),
    };
    assert_eq!(rig.grant(1, end).await, 1);
}

#[tokio::test]
async fn a_reservation_takes_its_units_and_names_its_place() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let requests = [
        (1, Buy::of("u", "o1").units(3)),
        (1, Buy::anonymous("o2").ttl_ms(5_000)),
    ];
    let answers = rig.reserve_all(&requests).await;
    for (i, (answer, hold_ms)) in (0u8..).zip(answers.iter().zip([60_000, 5_000])) {
        let place = place_of(answer);
        assert_eq!((place.epoch, place.seq, place.index), (1, 2, i), "one call made both");
        let expected = Reserved {
            id: id(&rig, place),
            created_at: OPENED,
            expires_at: OPENED.plus_ms(hold_ms),
        };
        assert_eq!(*answer, expected);
        assert!(rig.deployment.id_key.is_genuine(id(&rig, place)));
    }
    assert_eq!(rig.free(1).await, Some(6));
    assert_eq!(rig.record(1, "u:u").await.live[0].units, 3);
    assert_eq!(rig.record(1, "o:o2").await.live[0].units, 1);
}

#[tokio::test]
async fn the_same_request_gets_the_same_reservation_within_a_call_and_across_calls() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    for buy in [Buy::of("u", "derived"), Buy::of("u", "explicit").key("k")] {
        let twice = [(1, buy.clone()), (1, buy.clone())];
        let answers = rig.reserve_all(&twice).await;
        let first = id(&rig, place_of(&answers[0]));
        assert_eq!(answers[1], Replayed(first));
        assert_eq!(rig.reserve(1, &buy).await, Replayed(first));
    }
    assert_eq!(rig.free(1).await, Some(8), "each took its unit once");
}

#[tokio::test]
async fn a_key_belongs_to_one_request_only() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let other = Buy::of("u", "o").units(2).key("k");
    let answers = rig
        .reserve_all(&[(1, Buy::of("u", "o").key("k")), (1, other.clone())])
        .await;
    assert_eq!(answers[1], KeyReused);
    assert_eq!(rig.reserve(1, &other).await, KeyReused);
    let answers = rig
        .reserve_all(&[(1, Buy::of("u", "d")), (1, Buy::of("u", "d").units(2))])
        .await;
    assert_eq!(answers[1], KeyReused, "a derived key too");
}

#[tokio::test]
async fn a_key_answers_for_its_ended_reservation_whatever_is_asked() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    for (status, key) in [(Status::Released, "k1"), (Status::Expired, "k2")] {
        let buy = Buy::of("u", key).key(key);
        let place = rig.place(1, &buy).await;
        end(&mut rig, place, status).await;
        for again in [buy.clone(), buy.units(2)] {
            assert_eq!(rig.reserve(1, &again).await, Ended(id(&rig, place)));
        }
    }
    assert_eq!(rig.free(1).await, Some(10));
}

#[tokio::test]
async fn what_left_no_tombstone_can_be_reserved_anew() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let cases = [
        (Buy::of("u", "derived"), Status::Released),
        (Buy::of("u", "derived"), Status::Expired),
        (Buy::of("u", "rejected").key("k"), Status::Rejected),
    ];
    for (buy, status) in cases {
        let first = rig.place(1, &buy).await;
        end(&mut rig, first, status).await;
        let second = rig.place(1, &buy).await;
        assert_ne!(first, second);
        end(&mut rig, second, Status::Rejected).await;
    }
}

#[tokio::test]
async fn only_a_live_sale_sells() {
    let mut rig = Rig::start().await;
    assert_eq!(rig.reserve(1, &Buy::of("u", "o")).await, NotLive(None), "unknown");
    rig.open(1, OPEN, 10).await;
    let kept = rig.place(1, &Buy::of("u", "kept")).await;
    let states = [
        (SaleState::Draft, SaleState::Scheduled),
        (SaleState::Scheduled, SaleState::Scheduled),
        (SaleState::Paused, SaleState::Paused),
        (SaleState::Frozen, SaleState::Frozen),
        (SaleState::Ended, SaleState::Ended),
    ];
    for (state, told) in states {
        rig.grant(1, Grant::Settings(LaneSettings { state, ..OPEN })).await;
        assert_eq!(rig.reserve(1, &Buy::of("u", "o")).await, NotLive(Some(told)));
        assert_eq!(rig.reserve(1, &Buy::of("u", "kept")).await, Replayed(id(&rig, kept)));
    }
    rig.grant(1, Grant::Settings(OPEN)).await;
    rig.place(1, &Buy::of("u", "o")).await;
}

#[tokio::test]
async fn a_sale_ends_by_the_lanes_time_to_the_millisecond() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let ends = |at: Millis| {
        let ends_at_ms = u64::try_from(at.0).expect("after 1970");
        Grant::Settings(LaneSettings { ends_at_ms, ..OPEN })
    };
    rig.grant(1, ends(OPENED.plus_ms(1))).await;
    rig.place(1, &Buy::of("u", "in time")).await;
    rig.grant(1, ends(OPENED)).await;
    assert_eq!(
        rig.reserve(1, &Buy::of("u", "late")).await,
        NotLive(Some(SaleState::Ended))
    );
    rig.grant(1, ends(OPENED.plus_ms(500))).await;
    rig.place(1, &Buy::of("u", "again in time")).await;
    rig.pass(1, 500).await;
    assert_eq!(
        rig.reserve(1, &Buy::of("u", "late")).await,
        NotLive(Some(SaleState::Ended))
    );
}

#[tokio::test]
async fn the_settings_bind_requests() {
    let mut rig = Rig::start().await;
    let limited = LaneSettings {
        per_user_limit: 3,
        ..OPEN
    };
    rig.open(1, limited, 10).await;
    assert_eq!(rig.reserve(1, &Buy::anonymous("o")).await, UserRequired);
    let long = Buy::of("u", "o").ttl_ms(3_600_001);
    assert_eq!(rig.reserve(1, &long).await, TtlTooLong { hold_max_ms: 3_600_000 });
    rig.place(1, &Buy::of("u", "o").ttl_ms(3_600_000)).await;
}

#[tokio::test]
async fn an_order_holds_the_item_once() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let requests = [
        (1, Buy::of("u", "o").key("k1")),
        (1, Buy::of("u", "o").key("k2")),
        (1, Buy::of("u", "o")),
    ];
    let answers = rig.reserve_all(&requests).await;
    let first = OrderAlreadyReserved(id(&rig, place_of(&answers[0])));
    assert_eq!(answers[1..], [first.clone(), first.clone()]);
    assert_eq!(rig.reserve(1, &Buy::of("u", "o").key("k3")).await, first);
    assert_eq!(rig.free(1).await, Some(9));
}

#[tokio::test]
async fn a_user_holds_and_buys_no_more_than_the_limit() {
    let mut rig = Rig::start().await;
    let per_user_limit = 3;
    rig.open(1, LaneSettings { per_user_limit, ..OPEN }, 10).await;
    let requests = [
        (1, Buy::of("u", "o1").units(2)),
        (1, Buy::of("u", "o1").units(2)),
        (1, Buy::of("u", "o2").units(2)),
        (1, Buy::of("v", "o3").units(4)),
        (1, Buy::of("u", "o4")),
    ];
    let answers = rig.reserve_all(&requests).await;
    let (held, bought) = (place_of(&answers[0]), place_of(&answers[4]));
    assert_eq!(answers[1], Replayed(id(&rig, held)), "a repeat is not counted");
    assert_eq!(answers[2], UserLimit { limit: 3, held: 2 }, "with what this call took");
    assert_eq!(answers[3], UserLimit { limit: 3, held: 0 });
    let full = UserLimit { limit: 3, held: 3 };
    assert_eq!(rig.reserve(1, &Buy::of("u", "o5")).await, full);
    end(&mut rig, bought, Status::Released).await;
    rig.place(1, &Buy::of("u", "o5")).await;
    assert_eq!(
        rig.reserve(1, &Buy::of("u", "o6")).await,
        full,
        "the allowance healed by one"
    );
}

#[tokio::test]
async fn a_buyer_has_at_most_64_reservations() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 100).await;
    let requests: Vec<_> = (0..65).map(|i| (1, Buy::of("u", &format!("o{i}")))).collect();
    let answers = rig.reserve_all(&requests).await;
    assert!(answers[..64].iter().all(|answer| matches!(answer, Reserved { .. })));
    assert_eq!(answers[64], UserLimit { limit: 64, held: 64 });
    end(&mut rig, place_of(&answers[10]), Status::Released).await;
    rig.place(1, &requests[64].1).await;
}

/// The bound is a buyer's, not the item's: as many may hold it as there are units.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_hold_one_item() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 100_001).await;
    for thousand in 0..100 {
        let buyers: Vec<_> = (0..1_000)
            .map(|n| (1, Buy::anonymous(&format!("o{thousand}-{n}"))))
            .collect();
        let answers = rig.reserve_all(&buyers).await;
        assert!(answers.iter().all(|answer| matches!(answer, Reserved { .. })));
    }
    let last = rig.place(1, &Buy::of("u", "last")).await;
    assert_eq!(
        rig.reserve(1, &Buy::of("w", "late")).await,
        Insufficient { available: 0 }
    );
    end(&mut rig, last, Status::Released).await;
    rig.place(1, &Buy::of("w", "late")).await;
}

#[tokio::test]
async fn nobody_gets_more_than_there_is() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let requests = [
        (1, Buy::of("a", "a").units(3)),
        (1, Buy::of("b", "b").units(3)),
        (1, Buy::of("c", "c").units(2)),
        (1, Buy::of("d", "d")),
    ];
    let answers = rig.reserve_all(&requests).await;
    assert!(matches!((&answers[0], &answers[2]), (Reserved { .. }, Reserved { .. })));
    assert_eq!(answers[1], Insufficient { available: 2 });
    assert_eq!(answers[3], Insufficient { available: 0 });
    assert_eq!(rig.free(1).await, Some(0));
    rig.grant(1, Grant::Correct(-2)).await;
    assert_eq!(rig.reserve(1, &Buy::of("e", "e")).await, Insufficient { available: 0 });
}

#[tokio::test]
async fn a_full_queue_takes_no_more_until_the_ledger_catches_up() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let settings = Settings {
        queue_max: 2,
        ..Settings::new(&rig.url)
    };
    let flash = rig.gateway_with(settings).await;
    let requests: Vec<_> = (0..3).map(|i| (1, Buy::of("u", &format!("o{i}")))).collect();
    let answers = reserve_all(&flash, &requests).await;
    assert_eq!(answers[2], QueueFull);
    assert_eq!(reserve_all(&flash, &requests[2..]).await, [QueueFull]);
    assert!(matches!(reserve_all(&flash, &requests[..1]).await[0], Replayed(_)));
    let cursor = flashgate::domain::lane::Cursor {
        seq: 2,
        total: 1,
        ..rig.cursor()
    };
    let notice = flashgate::flash::Notice {
        from: rig.flash.gateway(),
        epoch: 1,
        calls: vec![],
    };
    rig.flash
        .settle(LANE, cursor, None, &notice, &[].into())
        .await
        .expect("Redis answers");
    let answers = reserve_all(&flash, &[(1, Buy::of("u", "o2")), (1, Buy::of("u", "o3"))]).await;
    assert!(matches!(answers[..], [Reserved { .. }, QueueFull]), "{answers:?}");
}

/// One request to which everything applies; each row takes away the answer that won.
#[tokio::test]
async fn the_first_answer_that_applies_wins() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 1).await;
    let held = rig.place(1, &Buy::of("u", "held").key("k")).await;
    let all = LaneSettings {
        state: SaleState::Paused,
        per_user_limit: 1,
        rate_milli: 1,
        rate_burst: 1,
        hold_max_ms: 1_000,
        ..OPEN
    };
    let live = LaneSettings {
        state: SaleState::Live,
        ..all
    };
    let no_limit = LaneSettings {
        per_user_limit: 0,
        ..live
    };
    let no_rate = LaneSettings {
        rate_milli: 0,
        rate_burst: 0,
        ..live
    };
    // `held` under another key, too long, too often, too much, and there is nothing left.
    let worst = Buy::of("u", "held").units(2).ttl_ms(1_001);
    let new = Buy::of("u", "new").units(2);
    let limit = UserLimit { limit: 1, held: 1 };
    let first_attempt: [(&str, LaneSettings, Buy, Decision); 9] = [
        ("replay", all, Buy::of("u", "held").key("k"), Replayed(id(&rig, held))),
        ("key reused", all, worst.clone().key("k"), KeyReused),
        ("not live", all, worst.clone(), NotLive(Some(SaleState::Paused))),
        (
            "user required",
            live,
            Buy::anonymous("held").units(2).ttl_ms(1_001),
            UserRequired,
        ),
        ("too long", live, worst.clone(), TtlTooLong { hold_max_ms: 1_000 }),
        (
            "order",
            live,
            Buy::of("u", "held").units(2),
            OrderAlreadyReserved(id(&rig, held)),
        ),
        ("limit, with the only token", live, new.clone(), limit.clone()),
        (
            "rate",
            live,
            new.clone(),
            RateLimited {
                retry_after_ms: 1_000_000,
            },
        ),
        ("limit, without a rate", no_rate, new.clone(), limit),
    ];
    for (name, settings, buy, expected) in first_attempt {
        rig.grant(1, Grant::Settings(settings)).await;
        assert_eq!(rig.reserve(1, &buy).await, expected, "{name}");
    }
    rig.grant(
        1,
        Grant::Settings(LaneSettings {
            rate_milli: 0,
            ..no_limit
        }),
    )
    .await;
    assert_eq!(rig.reserve(1, &new).await, Insufficient { available: 0 });
}

#[tokio::test]
async fn a_refused_request_changes_nothing() {
    let mut rig = Rig::start().await;
    let per_user_limit = 2;
    rig.open(1, LaneSettings { per_user_limit, ..OPEN }, 3).await;
    rig.open(
        2,
        LaneSettings {
            state: SaleState::Paused,
            ..OPEN
        },
        3,
    )
    .await;
    rig.place(1, &Buy::of("u", "o1").key("k1")).await;
    let before = rig.dump().await;
    let refused = [
        (1, Buy::of("u", "o1").key("k1")),
        (1, Buy::of("u", "o2").key("k1")),
        (3, Buy::of("u", "o")),
        (2, Buy::of("u", "o")),
        (1, Buy::anonymous("o")),
        (1, Buy::of("u", "o").ttl_ms(u32::MAX)),
        (1, Buy::of("u", "o1").key("k2")),
        (1, Buy::of("u", "o2").units(2)),
        (1, Buy::of("v", "o3").units(3)),
    ];
    let answers = rig.reserve_all(&refused).await;
    assert!(
        !answers.iter().any(|answer| matches!(answer, Reserved { .. })),
        "{answers:?}"
    );
    assert_eq!(rig.dump().await, before);
}

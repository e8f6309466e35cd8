//! The user rate: a token bucket per buyer and sale, exact over every gateway.

use std::sync::Arc;

use flashgate::clock::Clock;
use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Decision::{
    Insufficient, OrderAlreadyReserved, RateLimited, Replayed, Reserved, UserLimit, UserRequired,
};
use flashgate::domain::sale::LaneSettings;
use flashgate::domain::time::Millis;
use flashgate::flash::Settings;
use fred::prelude::ClientLike;

use crate::support::flash::{Buy, LANE, OPEN, OPENED, Rig, ask, connected, raw, reserve_all, set_clock};

/// One attempt a second, two at once.
const RATED: LaneSettings = LaneSettings {
    rate_milli: 1_000,
    rate_burst: 2,
    ..OPEN
};

fn nth(n: u32) -> (i32, Buy) {
    (1, Buy::of("u", &format!("o{n}")))
}

#[tokio::test]
async fn a_burst_is_spent_and_comes_back_with_time() {
    let mut rig = Rig::start().await;
    rig.open(1, RATED, 100).await;
    let answers = rig.reserve_all(&[nth(1), nth(2), nth(3)]).await;
    assert!(matches!(answers[..2], [Reserved { .. }, Reserved { .. }]));
    assert_eq!(answers[2], RateLimited { retry_after_ms: 1_000 });
    let passed = rig.pass(1, 400).await.0 - OPENED.0;
    let left = u64::try_from(1_000 - passed).expect("a pass takes only a little longer");
    let RateLimited { retry_after_ms } = rig.reserve_all(&[nth(3)]).await[0] else {
        panic!("{left} ms are left");
    };
    assert!(
        (left..=left + 1).contains(&retry_after_ms),
        "{retry_after_ms}, not {left}"
    );
    rig.pass(1, i64::try_from(retry_after_ms).expect("a second")).await;
    let answers = rig.reserve_all(&[nth(3), nth(4)]).await;
    assert!(
        matches!(answers[..], [Reserved { .. }, RateLimited { .. }]),
        "{answers:?}"
    );
    rig.pass(1, 1_000_000).await;
    let answers = rig.reserve_all(&[nth(4), nth(5), nth(6)]).await;
    let spent = [&answers[0], &answers[1]].map(|answer| matches!(answer, Reserved { .. }));
    assert_eq!(spent, [true; 2]);
    assert_eq!(
        answers[2],
        RateLimited { retry_after_ms: 1_000 },
        "no more than the burst is saved up"
    );
}

#[tokio::test]
async fn every_attempt_counts_but_not_the_repeat_of_a_reservation() {
    let mut rig = Rig::start().await;
    rig.open(
        1,
        LaneSettings {
            per_user_limit: 1,
            ..RATED
        },
        100,
    )
    .await;
    let answers = rig
        .reserve_all(&[nth(1), nth(1), nth(1), (1, Buy::of("u", "o1").key("k")), nth(2), nth(3)])
        .await;
    assert!(matches!(
        answers[..],
        [
            Reserved { .. },
            Replayed(_),
            Replayed(_),
            OrderAlreadyReserved(_),
            UserLimit { .. },
            RateLimited { .. }
        ]
    ));
}

#[tokio::test]
async fn each_buyer_has_a_bucket_in_each_sale() {
    let mut rig = Rig::start().await;
    let once = LaneSettings { rate_burst: 1, ..RATED };
    rig.open(1, once, 100).await;
    rig.open(2, once, 100).await;
    let requests = [
        (1, Buy::of("u", "a")),
        (1, Buy::of("v", "b")),
        (2, Buy::of("u", "a")),
        (1, Buy::of("u", "d")),
        (2, Buy::of("u", "d")),
    ];
    let answers = rig.reserve_all(&requests).await;
    assert!(answers[..3].iter().all(|answer| matches!(answer, Reserved { .. })));
    assert!(answers[3..].iter().all(|answer| matches!(answer, RateLimited { .. })));
    // Whoever leaves the name out would have a bucket for every order.
    assert_eq!(rig.reserve(1, &Buy::anonymous("c")).await, UserRequired);
}

/// Names that come once and never again must not fill Redis.
#[tokio::test]
async fn full_buckets_are_forgotten() {
    let mut rig = Rig::start().await;
    rig.open(1, RATED, 0).await;
    let client = raw(&rig.url).await;
    let rates = format!("fg:{{{}-{LANE}}}:rates:1", rig.deployment.namespace);
    let buckets = async || -> usize {
        let told = ask(&client, "HLEN", &[&rates]).await.concat();
        String::from_utf8(told).expect("text").parse().expect("a number")
    };
    let visit = |name: &str| -> Vec<_> { (0..300).map(|n| (1, Buy::of(&format!("{name}{n}"), "o"))).collect() };
    for name in ["a", "b"] {
        rig.reserve_all(&visit(name)).await;
    }
    assert_eq!(buckets().await, 600, "all of them may be about to try again");
    rig.pass(1, 100_000).await;
    for name in ["c", "d", "e"] {
        rig.reserve_all(&visit(name)).await;
    }
    let left = buckets().await;
    assert!((900..1_000).contains(&left), "{left} of 1,500 buckets");
    client.quit().await.expect("it leaves");
}

#[tokio::test]
async fn a_new_rate_holds_at_once() {
    let mut rig = Rig::start().await;
    rig.open(1, LaneSettings { rate_burst: 5, ..RATED }, 100).await;
    assert!(matches!(rig.reserve_all(&[nth(1)]).await[0], Reserved { .. }));
    rig.grant(1, Grant::Settings(LaneSettings { rate_burst: 1, ..RATED }))
        .await;
    let answers = rig.reserve_all(&[nth(2), nth(3)]).await;
    assert!(
        matches!(answers[..], [Reserved { .. }, RateLimited { .. }]),
        "the burst is cut: {answers:?}"
    );
}

/// Whoever goes back and forth between two gateways gains nothing from the difference of their clocks.
#[tokio::test]
async fn clocks_that_differ_mint_no_attempts() {
    let mut rig = Rig::start().await;
    rig.open(1, LaneSettings { rate_burst: 1, ..RATED }, 0).await;
    let mut gateways = Vec::new();
    for ahead_ms in [900, 300] {
        let clock = Arc::new(Clock::new());
        set_clock(&clock, Millis(OPENED.0 + ahead_ms));
        let flash = connected(Settings::new(&rig.url), &rig.deployment, &clock).await;
        flash.adopt_lane(LANE, rig.epoch, 0);
        // The clocks stand still: each attempt is made at the same moment.
        gateways.push((flash, clock, ahead_ms));
    }
    let mut allowed = 0;
    for _ in 0..5 {
        for (flash, clock, ahead_ms) in &gateways {
            set_clock(clock, Millis(OPENED.0 + ahead_ms));
            match reserve_all(flash, &[nth(1)]).await[0] {
                Insufficient { .. } => allowed += 1,
                RateLimited { .. } => {}
                ref other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(allowed, 1);
}

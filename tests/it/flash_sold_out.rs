//! Sold out is answered without a call of the script, and only ever to those whom the script would answer the same.

use std::time::Duration;

use flashgate::domain::grant::Grant;
use flashgate::domain::lane::LaneNo;
use flashgate::domain::outcome::Decision::{
    self, Ended, Insufficient, KeyReused, NotLive, RateLimited, Replayed, Reserved, TtlTooLong, UserLimit, UserRequired,
};
use flashgate::domain::reservation::Status;
use flashgate::domain::sale::{LaneSettings, SaleState};
use flashgate::flash::{Flash, FlashError, Mark, Settings, Verdict};

use crate::support::flash::{
    Buy, LANE, OPEN, OPENED, Rig, ask, place_of, raw, reserve_all, sale, set_clock, sha_of, until,
};
use crate::support::proxy::{Proxy, Trick};
use crate::support::servers;

const NONE: Decision = Insufficient { available: 0 };

/// A gateway whose calls are counted.
struct Counted {
    flash: Flash,
    proxy: Proxy,
}

impl Counted {
    async fn start(rig: &Rig) -> Counted {
        let proxy = Proxy::before(&rig.url).await;
        let flash = rig.gateway_with(Settings::new(proxy.url())).await;
        Counted { flash, proxy }
    }

    /// The answer, and whether the script was called for it.
    async fn ask(&self, buy: &Buy) -> (Decision, bool) {
        let before = self.proxy.count(&sha_of("reserve"));
        let answer = reserve_all(&self.flash, &[(1, buy.clone())]).await.remove(0);
        (answer, self.proxy.count(&sha_of("reserve")) > before)
    }

    /// Asks until it answers a stranger by itself.
    async fn learn(&self) {
        until("a local answer", async || {
            let (answer, called) = self.ask(&Buy::of("stranger", "s")).await;
            assert_eq!(answer, NONE);
            !called
        })
        .await;
    }
}

/// A sale whose only unit is taken by user `holder`, and a gateway that knows it.
async fn sold_out(settings: LaneSettings) -> (Rig, Counted, Decision) {
    let mut rig = Rig::start().await;
    rig.open(1, settings, 1).await;
    let counted = Counted::start(&rig).await;
    let held = counted.ask(&Buy::of("holder", "o").key("k")).await.0;
    counted.learn().await;
    (rig, counted, held)
}

#[tokio::test]
async fn strangers_are_answered_without_a_call() {
    let (rig, counted, _) = sold_out(OPEN).await;
    let before = rig.dump().await;
    for i in 0..20 {
        let buy = Buy::anonymous(&format!("o{i}")).units(1 + i);
        assert_eq!(counted.ask(&buy).await, (NONE, false));
    }
    let other = Counted::start(&rig).await;
    assert_eq!(
        other.ask(&Buy::of("w", "o")).await,
        (NONE, true),
        "each gateway learns for itself"
    );
    assert_eq!(rig.dump().await, before);
}

#[tokio::test]
async fn the_holders_are_read_once_however_long_that_takes() {
    const HOLDERS: usize = 2_000;
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, u32::try_from(HOLDERS).expect("few")).await;
    let buys: Vec<_> = (0..HOLDERS).map(|n| (1, Buy::of(&format!("u{n}"), "o"))).collect();
    rig.reserve_all(&buys).await;
    let [quick, slow] = [Counted::start(&rig).await, Counted::start(&rig).await];
    quick.learn().await;
    let steps = quick.proxy.count("HSCAN");
    assert!(steps > 2, "{steps}");
    for _ in 0..steps {
        slow.proxy.play("HSCAN", Trick::Slow(Duration::from_millis(60)));
    }
    slow.learn().await;
    assert_eq!(slow.proxy.count("HSCAN"), steps);
}

#[tokio::test]
async fn who_holds_or_held_is_answered_by_the_lane() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 2).await;
    let counted = Counted::start(&rig).await;
    let buys = [Buy::of("holder", "o").key("k"), Buy::of("ended", "p").key("l")];
    let places = [
        place_of(&counted.ask(&buys[0]).await.0),
        place_of(&counted.ask(&buys[1]).await.0),
    ];
    let end = Grant::End {
        place: places[1],
        quantity: 1,
        status: Status::Released,
        buyer: "u:ended".into(),
    };
    rig.grant_all(LANE, &[(1, end), (1, Grant::Take { units: 1, target: None })])
        .await;
    counted.learn().await;
    let [held, ended] = places.map(|place| rig.deployment.id_key.seal(LANE, place));
    for (buy, answer) in [
        (buys[0].clone(), Replayed(held)),
        (buys[0].clone().units(2), KeyReused),
        (Buy::of("holder", "q"), NONE),
        (buys[1].clone(), Ended(ended)),
        (Buy::of("ended", "q"), NONE),
    ] {
        assert_eq!(counted.ask(&buy).await, (answer, true), "{buy:?}");
    }
    counted.learn().await;
}

#[tokio::test]
async fn whoever_would_be_answered_otherwise_is() {
    let limited = LaneSettings {
        per_user_limit: 2,
        hold_max_ms: 60_000,
        ..OPEN
    };
    let (_rig, counted, _) = sold_out(limited).await;
    for (buy, answer) in [
        (Buy::of("v", "o").units(3), UserLimit { limit: 2, held: 0 }),
        (Buy::anonymous("o"), UserRequired),
        (Buy::of("v", "o").ttl_ms(60_001), TtlTooLong { hold_max_ms: 60_000 }),
    ] {
        assert_eq!(counted.ask(&buy).await, (answer, true), "{buy:?}");
    }
    assert_eq!(
        counted.ask(&Buy::of("v", "o").units(2).ttl_ms(60_000)).await,
        (NONE, false)
    );
}

#[tokio::test]
async fn a_user_rate_is_kept_by_the_lane_alone() {
    let mut rig = Rig::start().await;
    rig.open(
        1,
        LaneSettings {
            rate_milli: 1,
            rate_burst: 1,
            ..OPEN
        },
        0,
    )
    .await;
    let counted = Counted::start(&rig).await;
    for i in 0..60 {
        assert_eq!(counted.ask(&Buy::of(&format!("u{i}"), "o")).await, (NONE, true));
        // Past the time after which a flag is tried for again.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(matches!(
        counted.ask(&Buy::of("u0", "o")).await,
        (RateLimited { .. }, true)
    ));
}

#[tokio::test]
async fn units_that_come_back_can_be_bought_at_once() {
    let (mut rig, counted, held) = sold_out(OPEN).await;
    rig.grant(1, Grant::Units(1)).await;
    assert!(matches!(
        counted.ask(&Buy::of("next", "o")).await,
        (Reserved { .. }, true)
    ));
    counted.learn().await;
    let end = Grant::End {
        place: place_of(&held),
        quantity: 1,
        status: Status::Released,
        buyer: "u:holder".into(),
    };
    rig.grant(1, end).await;
    assert!(matches!(
        counted.ask(&Buy::of("last", "o")).await,
        (Reserved { .. }, true)
    ));
}

#[tokio::test]
async fn new_settings_hold_at_once() {
    let (mut rig, counted, _) = sold_out(OPEN).await;
    rig.grant(
        1,
        Grant::Settings(LaneSettings {
            state: SaleState::Paused,
            ..OPEN
        }),
    )
    .await;
    assert_eq!(
        counted.ask(&Buy::of("v", "o")).await,
        (NotLive(Some(SaleState::Paused)), true)
    );
    rig.grant(1, Grant::Settings(OPEN)).await;
    counted.learn().await;
    rig.grant(1, Grant::Drop).await;
    assert_eq!(counted.ask(&Buy::of("v", "o")).await, (NotLive(None), true));
}

#[tokio::test]
async fn a_sale_that_is_over_is_not_sold_out() {
    let ends_at_ms = u64::try_from(OPENED.0 + 60_000).expect("after 1970");
    let (rig, counted, _) = sold_out(LaneSettings { ends_at_ms, ..OPEN }).await;
    set_clock(&rig.clock, OPENED.plus_ms(60_000));
    assert_eq!(
        counted.ask(&Buy::of("v", "o")).await,
        (NotLive(Some(SaleState::Ended)), true)
    );
}

#[tokio::test]
async fn a_new_epoch_is_asked_anew() {
    let (mut rig, counted, _) = sold_out(OPEN).await;
    rig.reopen(|_| async {}).await;
    counted.flash.adopt_lane(LANE, 2, 0);
    assert_eq!(counted.ask(&Buy::of("v", "o")).await, (NONE, true));
}

#[tokio::test]
async fn an_emptied_redis_is_not_sold_out() {
    let (rig, counted, _) = sold_out(OPEN).await;
    let client = raw(&rig.url).await;
    ask(&client, "FLUSHDB", &[]).await;
    let answer = counted
        .flash
        .reserve(&sale(1, &[LANE]), &Buy::of("v", "o").slip(), false)
        .await;
    assert!(matches!(answer, Err(FlashError::Stale)), "{answer:?}");
}

/// Two buckets, both empty: the mover's word decides, and what it says is remembered only while it stands.
#[tokio::test]
async fn with_several_buckets_the_mover_decides() {
    let mut rig = Rig::at(&servers::shared().await.redis(), 2).await;
    let lanes = [LANE, LaneNo(1)];
    for lane in lanes {
        rig.grant_all(lane, &[(1, Grant::Open(OPEN))]).await;
    }
    let proxy = Proxy::before(&rig.url).await;
    let flash = rig.gateway_with(Settings::new(proxy.url())).await;
    let mut desk = flash.take_desk().expect("once");
    assert!(flash.take_desk().is_none());
    let (sale, slip) = (sale(1, &lanes), Buy::of("u", "o").slip());
    let home = sale.home(&slip.buyer());
    let calls = || proxy.count(&sha_of("reserve"));

    let (undecided, ()) = tokio::join!(flash.reserve(&sale, &slip, false), async {
        let dry = desk.recv().await.expect("it waits there");
        assert_eq!((dry.sale.no, dry.lane, dry.units), (1, home, 1));
        let _ = dry.reply.send(Verdict::Undecided);
    });
    assert!(matches!(undecided, Err(FlashError::Undecided)), "{undecided:?}");

    let mut marks: Vec<Mark> = Vec::new();
    for lane in lanes {
        marks.extend(flash.mark(lane).await.expect("Redis answers"));
    }
    let outdated: Vec<Mark> = marks.iter().map(|mark| Mark { grant_no: 0, ..*mark }).collect();
    for (marks, learns) in [(vec![], false), (outdated, false), (marks, true)] {
        let mut local = false;
        for n in 0..60 {
            let (before, slip) = (calls(), Buy::of(&format!("v{n}"), "o").slip());
            let verdict = async {
                let Some(dry) = desk.recv().await else { return };
                let (available, marks) = (0, marks.clone());
                let _ = dry.reply.send(Verdict::SoldOut { available, marks });
                std::future::pending::<()>().await;
            };
            let answer = tokio::select! {
                answer = flash.reserve(&sale, &slip, false) => answer,
                () = verdict => unreachable!("it only answers"),
            };
            assert_eq!(answer.expect("Redis answers").decision, NONE);
            local |= calls() == before;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(local, learns, "marks {marks:?}");
    }

    rig.grant_all(home, &[(1, Grant::Units(1))]).await;
    let outcome = flash.reserve(&sale, &slip, false).await.expect("Redis answers");
    assert!(matches!(outcome.decision, Reserved { .. }));
}

#[tokio::test]
async fn units_that_the_mover_brings_are_taken() {
    let mut rig = Rig::at(&servers::shared().await.redis(), 2).await;
    let lanes = [LANE, LaneNo(1)];
    let (sale, slip) = (sale(1, &lanes), Buy::of("u", "o").slip());
    let home = sale.home(&slip.buyer());
    for lane in lanes {
        rig.grant_all(
            lane,
            &[(
                1,
                Grant::Open(LaneSettings {
                    rate_milli: 1,
                    rate_burst: 1,
                    ..OPEN
                }),
            )],
        )
        .await;
    }
    let flash = rig.gateway().await;
    let mut desk = flash.take_desk().expect("once");
    let (outcome, ()) = tokio::join!(flash.reserve(&sale, &slip, false), async {
        let dry = desk.recv().await.expect("it waits there");
        rig.grant_all(home, &[(1, Grant::Units(1))]).await;
        let _ = dry.reply.send(Verdict::Retry);
    });
    let decision = outcome.expect("Redis answers").decision;
    assert!(
        matches!(decision, Reserved { .. }),
        "the second try is no attempt of the user: {decision:?}"
    );
}

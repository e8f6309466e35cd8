//! A Redis that restarts, is emptied, or is too old: each is noticed before anything is sold.

use std::time::Duration;

use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Decision::{Replayed, Reserved};
use flashgate::flash::{Flash, FlashError, Health, Settings, Visit};

use crate::faults::older_redis::Data;
use crate::support::flash::{Buy, LANE, OPEN, Rig, ask, connected, parcels, raw, sale, until};
use crate::support::proxy::Proxy;
use crate::support::servers::Private;

async fn reserve(flash: &Flash, order: &str) -> Result<flashgate::flash::Outcome, FlashError> {
    flash
        .reserve(&sale(1, &[LANE]), &Buy::of("u", order).slip(), false)
        .await
}

/// Whether the node says that its lanes were recovered since it lost its scripts.
async fn witnessed(flash: &Flash) -> bool {
    let visit = visit(flash).await;
    let witnessed = visit.is_witnessed().await.expect("Redis answers");
    visit.leave().await;
    witnessed
}

async fn visit(flash: &Flash) -> Visit {
    flash.visit(LANE).await.expect("Redis answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_redis_sells_nothing_before_its_lanes_are_recovered() {
    let mut own = Private::start().await;
    let mut rig = Rig::at(&own.redis.url(), 1).await;
    rig.open(1, OPEN, 5).await;
    assert!(!witnessed(&rig.flash).await, "not yet");
    visit(&rig.flash).await.load_witness().await.expect("Redis answers");
    assert!(witnessed(&rig.flash).await);
    let held = reserve(&rig.flash, "o").await.expect("Redis answers").decision;
    assert!(matches!(held, Reserved { .. }));
    // Whatever the AOF would lose is none of this test's business.
    own.redis.stop();
    own.restart_redis().await;
    until("Redis", async || rig.flash.lane_meta(LANE).await.is_ok()).await;
    let before = rig.dump().await;
    let answer = reserve(&rig.flash, "p").await;
    assert!(matches!(answer, Err(FlashError::NotLoaded)), "{answer:?}");
    assert_eq!(rig.flash.health(LANE), Health::Suspect);
    let parcels = parcels(&[(1, Grant::Units(1))]);
    let delivery = rig.flash.deliver(LANE, rig.cursor(), 3, &parcels).await;
    assert!(matches!(delivery, Err(FlashError::NotLoaded)), "{delivery:?}");
    assert_eq!(rig.dump().await, before);
    assert!(!witnessed(&rig.flash).await);
    visit(&rig.flash).await.load_close().await.expect("Redis answers");
    let answer = reserve(&rig.flash, "p").await;
    assert!(answer.is_err(), "closing needs no script that sells");
    rig.reopen(|_| async {}).await;
    visit(&rig.flash).await.load_witness().await.expect("Redis answers");
    assert!(witnessed(&rig.flash).await);
    let again = reserve(&rig.flash, "o").await.expect("it sells again").decision;
    assert!(matches!((held, again), (Reserved { id, .. }, Replayed(known)) if id == known));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_is_away_and_then_asked_anew() {
    let mut own = Private::start().await;
    let mut rig = Rig::at(&own.redis.url(), 1).await;
    rig.open(1, OPEN, 5).await;
    own.redis.kill();
    let answer = reserve(&rig.flash, "o").await;
    assert!(matches!(answer, Err(FlashError::Unavailable(_))), "{answer:?}");
    assert_eq!(
        rig.flash.health(LANE),
        Health::Open(1),
        "nothing is known about the lane"
    );
    own.restart_redis().await;
    until("Redis", async || {
        let answer = reserve(&rig.flash, "o").await;
        assert!(answer.is_err(), "it was not recovered: {answer:?}");
        matches!(answer, Err(FlashError::NotLoaded))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_keeps_its_scripts_and_is_noticed_all_the_same() {
    let own = Private::start().await;
    let mut rig = Rig::at(&own.redis.url(), 1).await;
    rig.open(1, OPEN, 5).await;
    visit(&rig.flash).await.load_witness().await.expect("Redis answers");
    let client = raw(&rig.url).await;
    ask(&client, "FLUSHALL", &[]).await;
    let answer = reserve(&rig.flash, "o").await;
    assert!(matches!(answer, Err(FlashError::Stale)), "{answer:?}");
    assert_eq!(rig.flash.health(LANE), Health::Suspect);
    assert!(witnessed(&rig.flash).await, "the scripts say nothing");
    let soon = Duration::from_millis(1);
    assert!(matches!(rig.flash.open_epoch(LANE, soon).await, Err(FlashError::Stale)));
    assert!(rig.dump().await.is_empty(), "nothing was written");
}

/// Older data under a server that never stopped: the lane is open, at its epoch, and knows the scripts. That it was
/// further once is known to who has seen it, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_stepped_back_does_nothing_for_who_has_seen_more_of_it() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 2).await;
    let taken = |answer: Result<flashgate::flash::Outcome, FlashError>| {
        matches!(answer.expect("Redis answers").decision, Reserved { .. })
    };
    assert!(taken(reserve(&rig.flash, "first").await));
    let older = Data::of(&rig.url).await;
    assert!(taken(reserve(&rig.flash, "last").await));
    older.put_back(&rig.url).await;
    assert_eq!(rig.free(1).await, Some(1), "it would be sold again");
    let before = rig.dump().await;
    let answer = reserve(&rig.flash, "again").await;
    assert!(matches!(answer, Err(FlashError::Stale)), "{answer:?}");
    assert_eq!(rig.flash.health(LANE), Health::Suspect);
    let parcels = parcels(&[(1, Grant::Units(1))]);
    let delivery = rig.flash.deliver(LANE, rig.cursor(), 3, &parcels).await;
    assert!(matches!(delivery, Err(FlashError::Stale)), "{delivery:?}");
    assert_eq!(rig.dump().await, before, "nothing was written");
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused() {
    let rig = Rig::start().await;
    let checked = visit(&rig.flash).await.check_version().await;
    checked.expect("this one is new enough");
    let client = raw(&rig.url).await;
    let info = String::from_utf8(ask(&client, "INFO", &["server"]).await.concat()).expect("text");
    let found = info.lines().find(|line| line.contains("_version:")).expect("it tells");
    let (name, version) = found.trim().split_once(':').expect("a name");
    let (major, rest) = version.split_once('.').expect("a dot");
    for (told, fits) in [("6", false), ("0", false), ("9", true)] {
        let proxy = Proxy::before(&rig.url).await;
        let old = format!("{name}:{major}.{rest}");
        proxy.replace(&old, &format!("{name}:{told:0>width$}.{rest}", width = major.len()));
        let flash = connected(Settings::new(proxy.url()), &rig.deployment, &rig.clock).await;
        assert_eq!(visit(&flash).await.check_version().await.is_ok(), fits, "{told}.{rest}");
    }
}

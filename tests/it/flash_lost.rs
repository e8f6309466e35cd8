//! Answers that get lost between a gateway and Redis: whatever was done counts once, and comes back to who asked.

use std::time::Duration;

use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Decision::{Insufficient, RateLimited, Replayed, Reserved};
use flashgate::domain::outcome::{Decision, Durability};
use flashgate::domain::sale::LaneSettings;
use flashgate::drill::wire::Trouble;
use flashgate::flash::{Delivery, Flash, FlashError, Health, Notice, Outcome, Settings, SettledCall};

use crate::flash_model::{LaneModel, actual};
use crate::support::flash::{Buy, LANE, OPEN, Rig, parcels, reserve_all, sale, sha_of};
use crate::support::proxy::{Proxy, Trick};
use crate::support::wire::wired;

const SOON: Duration = Duration::from_millis(100);
/// How long a lost answer is waited for: long enough for a machine that runs all tests at once.
const PATIENT: Duration = Duration::from_secs(1);

/// A gateway behind a proxy, and the proxy.
async fn proxied(rig: &Rig) -> (Flash, Proxy) {
    let proxy = Proxy::before(&rig.url).await;
    (rig.gateway_with(patient(proxy.url())).await, proxy)
}

fn patient(url: &str) -> Settings {
    Settings {
        command_timeout: PATIENT,
        ..Settings::new(url)
    }
}

async fn reserve(flash: &Flash, buys: &[Buy]) -> Vec<Result<Outcome, FlashError>> {
    let sale = sale(1, &[LANE]);
    let ask = |buy: &Buy| {
        let (sale, slip) = (&sale, buy.slip());
        async move { flash.reserve(sale, &slip, true).await }
    };
    futures::future::join_all(buys.iter().map(ask)).await
}

#[tokio::test]
async fn a_lost_answer_counts_once_and_comes_back() {
    for trick in [Trick::CutBefore, Trick::CutAfter, Trick::Mute] {
        let mut rig = Rig::start().await;
        rig.open(1, OPEN, 2).await;
        let (flash, proxy) = proxied(&rig).await;
        proxy.play(&sha_of("reserve"), trick);
        let buys = ["a", "b", "c"].map(|order| Buy::of("u", order));
        let again = buys.iter().chain([&buys[0]]).cloned().collect::<Vec<_>>();
        let mut outcomes = reserve(&flash, &again)
            .await
            .into_iter()
            .map(|outcome| outcome.expect("it is repeated"));
        let [first, second, third, repeat] = std::array::from_fn(|_| outcomes.next().expect("four answers"));
        assert_eq!(third.decision, Insufficient { available: 0 });
        for outcome in [first, second] {
            let made = trick == Trick::CutBefore;
            assert_eq!(
                matches!(outcome.decision, Reserved { .. }),
                made,
                "{trick:?}: {:?}",
                outcome.decision
            );
            assert_eq!(outcome.ours, !made, "{trick:?}: who asked has seen no answer yet");
        }
        assert!(matches!(repeat.decision, Replayed(_)));
        assert_eq!(rig.free(1).await, Some(0), "{trick:?}");
        assert_eq!(rig.record(1, "u:u").await.live.len(), 2);
        assert_eq!(
            rig.entries(LANE).await.len(),
            2,
            "one opened the sale, one has all reservations"
        );
        assert_eq!(flash.health(LANE), Health::Open(1), "the lane is not to blame");
    }
}

/// Were it believed, its buyer would get the id of a reservation that nobody made.
#[tokio::test]
async fn the_answer_to_another_call_is_not_believed() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 3).await;
    let (flash, proxy) = proxied(&rig).await;
    let first = reserve(&flash, &[Buy::of("u", "a")]).await.remove(0);
    assert!(matches!(first.expect("Redis answers").decision, Reserved { .. }));
    proxy.play(&sha_of("reserve"), Trick::Again);
    let second = reserve(&flash, &[Buy::of("v", "b")]).await.remove(0);
    let second = second.expect("it is repeated");
    let made = rig
        .deployment
        .id_key
        .seal(LANE, rig.record(1, "u:v").await.live[0].place);
    assert_eq!((second.decision, second.ours), (Replayed(made), true));
    assert_eq!(rig.free(1).await, Some(1));
}

#[tokio::test]
async fn a_lost_answer_can_be_waited_for_until_it_is_durable() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 2).await;
    let (flash, proxy) = proxied(&rig).await;
    proxy.play(&sha_of("reserve"), Trick::CutAfter);
    let outcome = reserve(&flash, &[Buy::of("u", "a")])
        .await
        .remove(0)
        .expect("it is repeated");
    let entry = rig.entries(LANE).await.pop().expect("its entry");
    let (epoch, seq, nonce, total) = (entry.epoch, entry.seq, entry.nonce, entry.total);
    let calls = vec![SettledCall {
        seq,
        nonce,
        refused: vec![],
    }];
    let from = flash.gateway();
    let cursor = flashgate::domain::lane::Cursor {
        epoch,
        seq,
        nonce,
        total,
    };
    flash.tell_durable(LANE, cursor, &Notice { from, epoch, calls });
    let watch = outcome.watch.expect("it was asked for");
    assert_eq!(watch.wait(PATIENT).await, Some(Durability::Durable));
}

#[tokio::test]
async fn our_own_repeat_is_no_attempt_of_the_user() {
    let mut rig = Rig::start().await;
    rig.open(
        1,
        LaneSettings {
            rate_milli: 1,
            rate_burst: 2,
            ..OPEN
        },
        9,
    )
    .await;
    let (flash, proxy) = proxied(&rig).await;
    proxy.play(&sha_of("reserve"), Trick::CutAfter);
    let too_many = Buy::of("u", "a").units(10);
    let decision = reserve(&flash, &[too_many])
        .await
        .remove(0)
        .expect("it is repeated")
        .decision;
    assert_eq!(
        decision,
        Insufficient { available: 9 },
        "of its two attempts one is counted"
    );
    let answers = reserve_all(&flash, &[(1, Buy::of("u", "b")), (1, Buy::of("u", "c"))]).await;
    assert!(
        matches!(answers[..], [Reserved { .. }, RateLimited { .. }]),
        "{answers:?}"
    );
}

/// The worst moment: the last unit is taken, nobody knows by whom, and the sale is sold out for everyone else.
#[tokio::test]
async fn who_holds_the_last_unit_without_knowing_gets_it_from_any_gateway() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 1).await;
    let (flash, proxy) = proxied(&rig).await;
    for _ in 0..2 {
        proxy.play(&sha_of("reserve"), Trick::CutAfter);
    }
    let buy = Buy::of("u", "last");
    let lost = reserve(&flash, std::slice::from_ref(&buy)).await.remove(0);
    assert!(matches!(lost, Err(FlashError::Unavailable(_))), "{lost:?}");
    let other = rig.gateway().await;
    for stranger in 0..20 {
        let answer = reserve_all(&other, &[(1, Buy::of(&format!("v{stranger}"), "o"))]).await;
        assert_eq!(answer, [Insufficient { available: 0 }]);
        tokio::task::yield_now().await;
    }
    let live = rig.record(1, "u:u").await.live[0];
    let held = Replayed(rig.deployment.id_key.seal(LANE, live.place));
    for gateway in [&other, &flash] {
        let outcome = reserve(gateway, std::slice::from_ref(&buy))
            .await
            .remove(0)
            .expect("Redis answers");
        assert_eq!(
            (outcome.decision, outcome.ours),
            (held.clone(), false),
            "this try's client asks anew"
        );
    }
}

#[tokio::test]
async fn answers_in_pieces_or_late_are_answers() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 40).await;
    let (wire, url) = wired(&rig.url).await;
    wire.trouble(Trouble::Split(1));
    let proxy = Proxy::before(&url).await;
    let flash = rig.gateway_with(patient(proxy.url())).await;
    proxy.play(&sha_of("reserve"), Trick::Slow(SOON / 5));
    let requests: Vec<_> = (0..50).map(|i| (1, Buy::anonymous(&format!("o{i}")))).collect();
    let answers = reserve_all(&flash, &requests).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| matches!(answer, Reserved { .. }))
            .count(),
        40
    );
    assert_eq!(proxy.count(&sha_of("reserve")), 1, "nothing was repeated");
}

#[tokio::test]
async fn a_delivery_whose_answer_is_lost_can_be_repeated() {
    for trick in [Trick::CutBefore, Trick::CutAfter, Trick::Mute] {
        let mut rig = Rig::start().await;
        rig.open(1, OPEN, 5).await;
        let (flash, proxy) = proxied(&rig).await;
        proxy.play(&sha_of("grant"), trick);
        let parcels = parcels(&[(1, Grant::Units(10))]);
        let lost = flash.deliver(LANE, rig.cursor(), 3, &parcels).await;
        assert!(matches!(lost, Err(FlashError::Unavailable(_))), "{trick:?}: {lost:?}");
        let again = rig.flash.deliver(LANE, rig.cursor(), 3, &parcels).await;
        assert_eq!(again.expect("Redis answers"), Delivery::InForce(3));
        assert_eq!(rig.free(1).await, Some(15), "{trick:?}");
    }
}

#[tokio::test]
async fn gateways_share_a_lane_to_the_last_unit() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 150).await;
    let gateways = [rig.gateway().await, rig.gateway().await, rig.gateway().await];
    let sale = sale(1, &[LANE]);
    let ask = |n: usize| {
        let (flash, sale) = (&gateways[n % 3], &sale);
        let slip = Buy::of(&format!("u{}", n % 40), &format!("o{n}")).slip();
        async move { flash.reserve(sale, &slip, false).await.expect("Redis answers").decision }
    };
    let answers: Vec<Decision> = futures::future::join_all((0..300).map(ask)).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| matches!(answer, Reserved { .. }))
            .count(),
        150
    );
    let mut model = LaneModel::opened(&rig);
    for entry in &rig.entries(LANE).await {
        model.apply(entry);
    }
    assert_eq!(actual(&rig).await, model);
}

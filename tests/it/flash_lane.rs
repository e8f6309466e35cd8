//! A lane's life: it is closed, written anew and opened under ever higher epochs, looked at, and told what is durable.

use std::time::Duration;

use flashgate::domain::grant::Grant;
use flashgate::domain::lane::{Cursor, LaneNo, Nonce};
use flashgate::domain::outcome::Decision::{Ended, Insufficient, NotLive, RateLimited, Replayed, Reserved};
use flashgate::domain::record::{Live, Record, Tombstone};
use flashgate::domain::reservation_id::Place;
use flashgate::domain::sale::LaneSettings;
use flashgate::domain::time::Millis;
use flashgate::flash::{BUYERS_CALL, Closed, Flash, FlashError, Health, SaleImage};

use crate::support::flash::{Buy, LANE, OPEN, OPENED, Rig, parcels, reserve_all, sale, set_clock};
use crate::support::servers;

const PLACE: Place = Place {
    epoch: 1,
    seq: 7,
    index: 3,
    nonce: [1, 2, 3],
};

fn image(sale_no: i32, free: i64, taken: i64) -> SaleImage {
    SaleImage {
        sale_no,
        settings: OPEN,
        free,
        taken,
        grant_no: 0,
    }
}

fn held(buy: &Buy, place: Place) -> Record {
    Record {
        live: vec![Live::of(&buy.slip(), place)],
        tombstones: vec![],
    }
}

async fn close(flash: &Flash, epoch: u32) -> Closed {
    flash.close_lane(LANE, epoch).await.expect("Redis answers")
}

async fn open(rig: &Rig, epoch: u32, now: Millis) -> bool {
    let opened = rig
        .flash
        .open_lane(LANE, epoch, Nonce([epoch.to_be_bytes()[3]; 8]), 0, now);
    opened.await.expect("Redis answers")
}

#[tokio::test]
async fn an_epoch_only_rises() {
    let rig = Rig::start().await;
    assert_eq!(close(&rig.flash, 5).await, Closed::Was { epoch: Some(1) });
    for epoch in [1, 4, 5] {
        assert_eq!(close(&rig.flash, epoch).await, Closed::Superseded(5));
    }
    assert_eq!(close(&rig.flash, 6).await, Closed::Was { epoch: Some(5) });
    assert!(!open(&rig, 5, OPENED).await, "an earlier recovery opens nothing");
    assert!(!open(&rig, 7, OPENED).await);
    assert!(open(&rig, 6, OPENED).await);
    assert!(!open(&rig, 6, OPENED).await, "it is open already");
    assert_eq!(close(&rig.flash, 6).await, Closed::Superseded(6));
}

#[tokio::test]
async fn a_lane_that_never_was_is_closed_too() {
    let url = servers::shared().await.redis();
    let mut rig = Rig::at(&url, 2).await;
    rig.deployment.namespace.push('x');
    let flash = rig.gateway().await;
    assert_eq!(flash.lane_meta(LaneNo(1)).await.expect("Redis answers"), None);
    assert_eq!(flash.mark(LaneNo(1)).await.expect("Redis answers"), None);
    let closed = flash.close_lane(LaneNo(1), 3).await.expect("Redis answers");
    assert_eq!(closed, Closed::Was { epoch: None });
    let meta = flash
        .lane_meta(LaneNo(1))
        .await
        .expect("Redis answers")
        .expect("it is now");
    assert_eq!((meta.epoch, meta.open, meta.seq), (3, false, 0));
}

#[tokio::test]
async fn only_the_recovery_that_closed_a_lane_writes_it() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let buyers = [("u:u".to_owned(), held(&Buy::of("u", "o"), PLACE))];
    for (closed_at, epochs) in [(None, vec![1, 2]), (Some(3), vec![1, 2, 4])] {
        if let Some(epoch) = closed_at {
            close(&rig.flash, epoch).await;
        }
        let before = rig.dump().await;
        for epoch in epochs {
            let sale = rig.flash.rebuild_sale(LANE, epoch, &image(1, 9, 9)).await;
            let buyers = rig.flash.rebuild_buyers(LANE, epoch, 1, &buyers).await;
            let without = rig.flash.rebuild_without(LANE, epoch, 1).await;
            assert!(
                ![sale, buyers, without]
                    .map(|written| written.expect("Redis answers"))
                    .contains(&true)
            );
        }
        assert_eq!(rig.dump().await, before, "closed at {closed_at:?}");
    }
    assert!(rig.flash.rebuild_without(LANE, 3, 1).await.expect("Redis answers"));
    assert_eq!(rig.free(1).await, None);
}

#[tokio::test]
async fn a_lane_is_rebuilt_as_the_ledger_has_it() {
    let mut rig = Rig::start().await;
    rig.open(
        1,
        LaneSettings {
            rate_milli: 1,
            rate_burst: 1,
            ..OPEN
        },
        5,
    )
    .await;
    rig.open(2, OPEN, 5).await;
    rig.place(1, &Buy::of("gone", "o")).await;
    let (kept, ended) = (Buy::of("u", "kept").units(2), Buy::of("u", "ended").key("k"));
    let mut record = held(&kept, PLACE);
    let tomb = Place { index: 4, ..PLACE };
    record.tombstones.push(Tombstone {
        key: ended.slip().key.head(),
        place: tomb,
    });
    let written = record.clone();
    rig.reopen(async |flash: Flash| {
        let image = SaleImage {
            settings: LaneSettings {
                rate_milli: 1,
                rate_burst: 1,
                ..OPEN
            },
            ..image(1, 1, 6)
        };
        assert!(flash.rebuild_sale(LANE, 2, &image).await.expect("Redis answers"));
        assert!(flash.rebuild_buyers(LANE, 2, 1, &[]).await.expect("nothing to do"));
        assert!(
            flash
                .rebuild_buyers(LANE, 2, 1, &[("u:u".into(), written)])
                .await
                .expect("Redis answers")
        );
        assert!(flash.rebuild_without(LANE, 2, 2).await.expect("Redis answers"));
    })
    .await;
    let meta = rig
        .flash
        .lane_meta(LANE)
        .await
        .expect("Redis answers")
        .expect("it is there");
    assert_eq!(
        (meta.epoch, meta.open, meta.seq, meta.total, meta.done),
        (2, true, 0, 0, 0)
    );
    assert_eq!((meta.nonce, meta.grant_no), (rig.first_nonce(), 4));
    assert_eq!(rig.flash.lane_sales(LANE).await.expect("Redis answers"), [1]);
    let figures = rig.flash.lane_figures(1, &[LANE]).await.expect("Redis answers");
    assert_eq!((figures[0].free, figures[0].taken), (1, 6));
    assert_eq!(rig.record(1, "u:u").await, record);
    assert_eq!(rig.record(1, "u:gone").await, Record::default());
    let id = |place| rig.deployment.id_key.seal(LANE, place);
    assert_eq!(rig.reserve(1, &kept).await, Replayed(id(PLACE)));
    assert_eq!(rig.reserve(1, &ended).await, Ended(id(tomb)));
    assert_eq!(rig.reserve(2, &kept).await, NotLive(None));
    let place = rig.place(1, &Buy::of("gone", "o")).await;
    assert_eq!((place.epoch, place.seq), (2, 1), "the rates were emptied, too");
    assert!(matches!(
        rig.reserve(1, &Buy::of("gone", "p")).await,
        RateLimited { .. }
    ));
    assert_eq!(rig.reserve(1, &Buy::of("v", "o")).await, Insufficient { available: 0 });
    let prev = rig.entries(LANE).await.pop().expect("an entry").prev;
    assert_eq!(prev, rig.first_nonce());
}

#[tokio::test]
async fn a_whole_step_of_buyers_is_written_by_one_call() {
    let mut rig = Rig::start().await;
    let buyers: Vec<_> = (0..BUYERS_CALL)
        .map(|i| (format!("u:{i}"), held(&Buy::of(&i.to_string(), "o"), PLACE)))
        .collect();
    let written = buyers.clone();
    rig.reopen(async |flash: Flash| {
        assert!(
            flash
                .rebuild_sale(LANE, 2, &image(1, 0, 400))
                .await
                .expect("Redis answers")
        );
        assert!(flash.rebuild_buyers(LANE, 2, 1, &written).await.expect("Redis answers"));
    })
    .await;
    let (mut found, mut at) = (Vec::new(), None);
    loop {
        let (step, next) = rig.flash.scan_buyers(LANE, 1, at).await.expect("Redis answers");
        found.extend(step);
        at = next;
        if at.is_none() {
            break;
        }
    }
    found.sort();
    let mut expected: Vec<_> = buyers.into_iter().map(|(buyer, _)| buyer).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_lanes_time_never_runs_back() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let later = rig.pass(1, 5_000).await;
    assert!(later >= OPENED.plus_ms(5_000));
    let mut times = Vec::new();
    for (epoch, now) in [(2, OPENED), (3, later.plus_ms(-1)), (4, later.plus_ms(1))] {
        close(&rig.flash, epoch).await;
        assert!(open(&rig, epoch, now).await);
        rig.flash.adopt_lane(LANE, epoch, 0);
        let answer = rig.reserve(1, &Buy::anonymous(&format!("o{epoch}"))).await;
        let Reserved { created_at, .. } = answer else {
            panic!("{answer:?}")
        };
        times.push(created_at);
    }
    assert_eq!(times, [later, later, later.plus_ms(1)]);
}

#[tokio::test]
async fn the_clock_moves_the_lane_once_it_is_ahead() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    set_clock(&rig.clock, OPENED.plus_ms(700));
    let answer = rig.reserve(1, &Buy::of("u", "o")).await;
    assert!(matches!(answer, Reserved { created_at, .. } if created_at >= OPENED.plus_ms(700)));
}

/// What a lane was adopted with counts until the next epoch, then its seq begins anew.
#[tokio::test]
async fn a_gateway_follows_the_lane_into_its_new_epoch() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    for i in 0..3 {
        rig.place(1, &Buy::of("u", &format!("o{i}"))).await;
    }
    let other = rig.gateway().await;
    rig.reopen(|_| async {}).await;
    assert_eq!(other.health(LANE), Health::Open(1));
    other.suspect_lane(LANE, 2);
    assert_eq!(other.health(LANE), Health::Open(1), "that epoch is not its");
    other.adopt_lane(LANE, 2, 0);
    let answers = reserve_all(&other, &[(1, Buy::of("v", "o"))]).await;
    assert!(matches!(answers[..], [Reserved { .. }]));
    let soon = Duration::from_millis(1);
    assert_eq!(other.open_epoch(LANE, soon).await.expect("open"), 2);
    other.suspect_lane(LANE, 2);
    assert!(matches!(other.open_epoch(LANE, soon).await, Err(FlashError::Stale)));
    let cursor = Cursor {
        epoch: 1,
        ..rig.cursor()
    };
    let late = rig
        .flash
        .deliver(LANE, cursor, 3, &parcels(&[(1, Grant::Units(1))]))
        .await;
    assert!(matches!(late, Err(FlashError::Stale)));
    assert_eq!(
        rig.flash.health(LANE),
        Health::Open(2),
        "word of an older epoch changes nothing"
    );
}

#[tokio::test]
async fn a_lane_serves_only_who_knows_it_as_it_is() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 10).await;
    let (epoch, seq) = (rig.epoch, 1);
    for (name, told_epoch, seen) in [
        ("older epoch", epoch - 1, 0),
        ("later epoch", epoch + 1, 0),
        ("behind", epoch, seq + 1),
    ] {
        let before = rig.dump().await;
        let flash = rig.gateway().await;
        flash.adopt_lane(LANE, told_epoch, seen);
        let answer = flash.reserve(&sale(1, &[LANE]), &Buy::of("u", "o").slip(), false).await;
        assert!(matches!(answer, Err(FlashError::Stale)), "{name}: {answer:?}");
        assert_eq!(flash.health(LANE), Health::Suspect);
        assert_eq!(rig.dump().await, before, "{name}");
    }
    rig.flash.close_lane(LANE, 2).await.expect("Redis answers");
    let answer = rig
        .flash
        .reserve(&sale(1, &[LANE]), &Buy::of("u", "o").slip(), false)
        .await;
    assert!(matches!(answer, Err(FlashError::Stale)), "closed: {answer:?}");
}

#[tokio::test]
async fn nothing_is_delivered_to_a_lane_that_is_not_ours() {
    let mut rig = Rig::start().await;
    rig.open(1, OPEN, 5).await;
    let one = parcels(&[(1, Grant::Units(1))]);
    let now = rig.cursor();
    for cursor in [
        Cursor { epoch: 9, ..now },
        Cursor { epoch: 0, ..now },
        Cursor { seq: 2, ..now },
    ] {
        let before = rig.dump().await;
        let answer = rig.flash.deliver(LANE, cursor, 3, &one).await;
        assert!(matches!(answer, Err(FlashError::Stale)), "{cursor:?}: {answer:?}");
        assert_eq!(rig.dump().await, before);
    }
    rig.flash.close_lane(LANE, 2).await.expect("Redis answers");
    for epoch in [1, 2] {
        let answer = rig.flash.deliver(LANE, Cursor { epoch, ..now }, 3, &one).await;
        assert!(matches!(answer, Err(FlashError::Stale)), "closed: {answer:?}");
    }
}

//! Drift is found while a gateway sells, at its place, and put right; and nothing else is touched.
//!
//! What is planted at random: counters up and down; records of buyers removed, unreadable, without one of their
//! reservations, with another place, a reservation too much, a tombstone too much, with other units that somebody wrote
//! there; with other units, another key, fingerprint, line or checksum in the bytes alone, or any bit of the record; records
//! of nobody. What is altered in the queue is planted in `altered`, what breaks a lane as a whole, or the ledger's own
//! grants, one at a time in `broken`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashgate::domain::entry::SlipKeys;
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::outcome::Decision;
use flashgate::domain::reconciliation::ReportKind;
use flashgate::domain::record::{Live, Record, Tombstone};
use flashgate::domain::reservation::Ending;
use flashgate::domain::reservation_id::Place;
use flashgate::domain::sale::Sale;
use flashgate::ledger::recon::Filter;
use flashgate::ledger::{self, Ledger};
use flashgate::worker::Context;
use flashgate::worker::drift::{Round, run_once};
use flashgate::worker::verify::Position;
use fred::types::Value;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::ConnectOptions;

use super::fair::Fair;
use super::ledger::rows;
use crate::support::door::until;

/// What is planted in all.
const PLANTED: usize = 1_000;
/// Of each sale: so many that a hundred faults at a time meet different buyers.
const BUYERS: usize = 100;
const UNITS: i64 = 5_000;
/// Sales that are tampered with; `hot` never is.
const SALES: [&str; 3] = ["amber", "beryl", "coral"];
/// Causes under which a fault of a record may be told.
const RECORD_CAUSES: [&str; 4] = ["record_missing", "record_unknown", "record_differs", "record_altered"];
/// Ways to spoil a record.
const KINDS: u32 = 14;
/// Of these, those that its checksums find.
const ALTERS: std::ops::Range<u32> = 8..13;

/// Where a fault was planted: sale, lane, and whose record.
type Spot = (String, i16, Option<String>);

async fn compare(fair: &Fair) -> Round {
    let round = run_once(&fair.context, &Position::default()).await;
    round.expect("it can be found out").expect("nobody else compares")
}

/// What a comparison reported: causes by place. Each is corrected, by a grant and an event.
fn told(round: &Round) -> BTreeMap<Spot, BTreeSet<String>> {
    let mut told: BTreeMap<Spot, BTreeSet<String>> = BTreeMap::new();
    for found in round.report.iter().flat_map(|report| &report.discrepancies) {
        assert_eq!(found.status, "corrected", "{found:?}");
        assert!(found.grant_id.is_some() && found.event_id.is_some(), "{found:?}");
        assert_eq!(found.sku, found.sale_id, "the item of the sale: {found:?}");
        let spot = (
            found.sale_id.clone().expect("a sale"),
            found.lane.expect("a lane"),
            found.buyer.clone(),
        );
        told.entry(spot).or_default().insert(found.cause.clone());
    }
    told
}

/// Waits until no correction is on its way.
async fn corrected(fair: &Fair) {
    until("corrections to be in force", async || {
        let left = "SELECT count(*) FROM lane_grant WHERE kind IN ('correct', 'record')";
        (fair.desk.count(left).await == 0).then_some(())
    })
    .await;
}

/// A live sale in two lanes, with buyers who rest.
pub(super) async fn sale(fair: &Fair, name: &str) -> Arc<Sale> {
    let sale = Arc::new(fair.desk.sale(name, UNITS, None, 2).await);
    fair.settle().await;
    let taken = futures::future::join_all((0..BUYERS).map(|n| {
        let sale = &sale;
        async move {
            let (user, order) = (format!("{}{n}", sale.id), format!("{}-{n}", sale.id));
            let key = (n % 3 == 0).then(|| format!("key-{order}"));
            fair.take(sale, &user, &order, 2, key.as_deref()).await
        }
    }));
    assert!(
        taken
            .await
            .iter()
            .all(|taken| matches!(taken, Decision::Reserved { .. }))
    );
    fair.settle().await;
    sale
}

/// Plants one fault in the record of a buyer; returns where.
async fn spoil(fair: &Fair, sale: &Sale, user: &str, kind: u32, random: &mut StdRng) -> Spot {
    let buyer = format!("u:{user}");
    let lane = sale.home(&buyer);
    let key = fair.key_of(sale.no, lane, "buyers");
    let bytes = match fair.redis("HGET", vec![key.clone().into(), buyer.clone().into()]).await {
        Value::Bytes(bytes) => bytes.to_vec(),
        Value::String(text) => text.as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let mut record = Record::unpack(&bytes).expect("a record");
    let place = Place {
        epoch: 1,
        seq: random.random_range(1_000_000..2_000_000),
        index: 0,
        nonce: random.random(),
    };
    let keys = SlipKeys {
        explicit: false,
        key: KeyHash(random.random()),
        line: KeyHash(random.random()),
        fingerprint: Fingerprint(random.random()),
    };
    let ghost = Live::new(&buyer, &keys, 1, place);
    let new = match kind {
        0 => None,
        1 => Some(vec![1, 0, 7]),
        2 => {
            record.live.clear();
            record.tombstones.push(Tombstone { key: ghost.key, place });
            Some(record.pack())
        }
        3 => {
            let keys = SlipKeys {
                key: KeyHash::order_line(user, "other", "wh1"),
                ..keys
            };
            let other = Live::new(&buyer, &keys, record.live[0].units + 1, record.live[0].place);
            record.live[0] = other;
            Some(record.pack())
        }
        4 => {
            record.live.remove(0);
            record.live.push(ghost);
            Some(record.pack())
        }
        5 => {
            record.live[0].place = place;
            Some(record.pack())
        }
        6 => {
            record.live.push(ghost);
            Some(record.pack())
        }
        7 => {
            record.tombstones.push(Tombstone { key: ghost.key, place });
            Some(record.pack())
        }
        8 => {
            record.live[0].units += random.random_range(1..5);
            Some(record.pack())
        }
        9 => {
            record.live[0].key = random.random();
            Some(record.pack())
        }
        10 => {
            record.live[0].fingerprint[random.random_range(0..8)] ^= 1 << random.random_range(0..8);
            Some(record.pack())
        }
        11 => {
            record.live[0].line[random.random_range(0..8)] ^= 1 << random.random_range(0..8);
            Some(record.pack())
        }
        12 => {
            record.live[0].sum[random.random_range(0..4)] ^= 1 << random.random_range(0..8);
            Some(record.pack())
        }
        _ => {
            let mut bytes = bytes.clone();
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            Some(bytes)
        }
    };
    match new {
        None => fair.redis("HDEL", vec![key.into(), buyer.clone().into()]).await,
        Some(new) => {
            let new = Value::Bytes(new.into());
            fair.redis("HSET", vec![key.into(), buyer.clone().into(), new]).await
        }
    };
    (sale.id.to_string(), lane.to_i16(), Some(buyer))
}

/// A record of somebody who never reserved.
async fn haunt(fair: &Fair, sale: &Sale, user: &str, random: &mut StdRng) -> Spot {
    spoil(fair, sale, user, 6, random).await
}

/// Moves a counter by a few units, so few that the sale sells on.
async fn nudge(fair: &Fair, sale: &Sale, lane: LaneNo, random: &mut StdRng) -> Spot {
    let units = random.random_range(1..=4) * if random.random() { 1 } else { -1 };
    let args = vec![
        fair.key_of(sale.no, lane, "sale").into(),
        "free".into(),
        Value::Integer(units),
    ];
    fair.redis("HINCRBY", args).await;
    (sale.id.to_string(), lane.to_i16(), None)
}

/// Reserves and gives back, or lets expire, until it is over; what a sale's lanes do to each other goes on beside.
pub(super) async fn shop(fair: &Fair, sales: &[Arc<Sale>], n: usize, over: &AtomicBool, made: &AtomicUsize) {
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let sale = &sales[(n + round) % sales.len()];
        let (user, order) = (format!("shopper{n}-{}", round % 5), format!("shop-{n}-{round}"));
        let Ok(Decision::Reserved { id, .. }) = fair.try_take(sale, &user, &order, 1, None).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        made.fetch_add(1, Ordering::Relaxed);
        while fair
            .desk
            .ledger
            .reservation(id)
            .await
            .expect("Postgres answers")
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if round % 4 == 3 {
            let due = format!(
                "UPDATE inventory_reservation SET expires_at = now() - interval '1 minute' WHERE reservation_id = '{}'",
                id.0
            );
            fair.desk.run(&due).await;
        } else {
            fair.end(id, Ending::Release).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Moves units from lane to lane, to and fro, as dry buckets do.
async fn shift(fair: &Fair, sales: &[Arc<Sale>], over: &AtomicBool) {
    let mut flip = 0;
    while !over.load(Ordering::Relaxed) {
        for sale in sales {
            let (from, to) = (sale.lanes[flip % 2], sale.lanes[(flip + 1) % 2]);
            let moved = fair.desk.ledger.request_move(sale.no, from, to, 3).await;
            moved.expect("Postgres answers");
            fair.context.flash.nudge_grants(from);
        }
        flip += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_thousand_faults_are_found_while_it_sells() {
    let mut random = StdRng::seed_from_u64(2_187);
    let fair = Fair::open().await;
    let mut sales = Vec::new();
    for name in SALES {
        sales.push(sale(&fair, name).await);
    }
    let mut selling = sales.clone();
    selling.push(Arc::clone(&fair.sale));
    let tasks = fair.serve();
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let planting = async {
        let mut planted = 0;
        let mut ghosts = 0;
        while planted < PLANTED {
            let mut spots: BTreeSet<Spot> = BTreeSet::new();
            let mut altered: BTreeSet<Spot> = BTreeSet::new();
            for sale in &sales {
                for lane in &sale.lanes {
                    spots.insert(nudge(&fair, sale, *lane, &mut random).await);
                }
                for n in 0..BUYERS {
                    if random.random_range(0..10) < 7 {
                        let kind = random.random_range(0..KINDS);
                        let spot = spoil(&fair, sale, &format!("{}{n}", sale.id), kind, &mut random).await;
                        if ALTERS.contains(&kind) {
                            altered.insert(spot.clone());
                        }
                        spots.insert(spot);
                    }
                }
                ghosts += 1;
                spots.insert(haunt(&fair, sale, &format!("ghost{ghosts}"), &mut random).await);
            }
            let round = compare(&fair).await;
            assert!(round.frozen.is_empty(), "{:?}", round.frozen);
            let told = told(&round);
            let names: BTreeSet<Spot> = told.keys().cloned().collect();
            assert_eq!(names, spots, "what was planted, all of it, and nothing else");
            for spot in &altered {
                assert!(told[spot].contains("record_altered"), "{spot:?}: {:?}", told[spot]);
            }
            for ((.., buyer), causes) in &told {
                let may_be = |cause: &String| match buyer {
                    None => cause == "counter",
                    Some(_) => RECORD_CAUSES.contains(&cause.as_str()),
                };
                assert!(causes.iter().all(may_be), "{told:?}");
            }
            planted += spots.len();
            corrected(&fair).await;
        }
        over.store(true, Ordering::Relaxed);
        planted
    };
    let shoppers = (0..4).map(|n| shop(&fair, &selling, n, &over, &made));
    let (planted, _) = futures::join!(planting, futures::future::join_all(shoppers));
    assert!(planted >= PLANTED && made.load(Ordering::Relaxed) > 0);
    assert!(compare(&fair).await.report.is_none(), "all is put right");
    let touched = "SELECT count(*) FROM inventory_movement WHERE sku_id = 'hot' AND reason LIKE '%\\_corrected'";
    assert_eq!(fair.desk.count(touched).await, 0);
    let frozen = "SELECT count(*) FROM sale WHERE state <> 'live'";
    assert_eq!(fair.desk.count(frozen).await, 0);
    fair.assert_agrees().await;
    fair.context.stop.cancel();
    tasks.wait().await;
}

#[tokio::test]
async fn nothing_is_reported_where_nothing_differs() {
    let fair = Fair::open().await;
    let selling = [
        sale(&fair, "amber").await,
        sale(&fair, "beryl").await,
        Arc::clone(&fair.sale),
    ];
    let tasks = fair.serve();
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let comparing = async {
        let (began, mut rounds, mut at) = (Instant::now(), 0, Position::default());
        while rounds < 12 || made.load(Ordering::Relaxed) < 100 || began.elapsed() < Duration::from_secs(5) {
            let round = run_once(&fair.context, &at).await.expect("it can be found out");
            let round = round.expect("nobody else compares");
            assert!(round.report.is_none() && round.frozen.is_empty(), "{round:?}");
            at = round.next;
            rounds += 1;
        }
        over.store(true, Ordering::Relaxed);
    };
    let shoppers = (0..4).map(|n| shop(&fair, &selling, n, &over, &made));
    futures::join!(
        comparing,
        futures::future::join_all(shoppers),
        shift(&fair, &selling, &over)
    );
    let filter = Filter {
        kind: Some(ReportKind::Live),
        limit: 10,
        ..Filter::default()
    };
    assert_eq!(fair.desk.ledger.reports(filter).await.expect("reads"), []);
    fair.context.stop.cancel();
    tasks.wait().await;
}

#[tokio::test]
async fn many_sales_are_compared_in_turn() {
    let fair = Fair::open().await;
    for name in ["amber", "beryl", "coral"] {
        fair.desk.sale(name, UNITS, None, 2).await;
    }
    fair.settle().await;
    let url = fair.desk.pool.connect_options().to_url_lossy();
    let mut settings = ledger::Settings::new(url.as_str());
    // To look for the buyers of four sales in two lanes each, who are none, costs more than this.
    settings.recon.compare_records_max = 300;
    let context = Context {
        ledger: Ledger::new(&settings).expect("an address"),
        ..fair.context.clone()
    };
    let mut turns = vec![Position::default()];
    for turn in 0..4 {
        let round = run_once(&context, &turns[turn]).await.expect("it can be found out");
        let round = round.expect("nobody else compares");
        assert_eq!(round.compared, 8, "every counter, every time");
        turns.push(round.next);
    }
    assert_eq!((&turns[1], &turns[2]), (&turns[3], &turns[4]), "half of them in turn");
    assert_ne!(turns[1], turns[2]);
    context.ledger.close().await;
}

#[tokio::test]
async fn what_has_ended_is_walked_past_in_turns() {
    let fair = Fair::open().await;
    let sale = fair.desk.sale("old", UNITS, None, 4).await;
    for lane in &sale.lanes {
        let ended =
            format!("SELECT gen_random_uuid(), n, {lane} || 'u' || n, 'EXPIRED' FROM generate_series(1, 3000) AS n");
        fair.desk.run(&rows(&sale, *lane, &ended)).await;
    }
    fair.settle().await;
    let url = fair.desk.pool.connect_options().to_url_lossy();
    let mut settings = ledger::Settings::new(url.as_str());
    settings.recon.compare_records_max = 100;
    let context = Context {
        ledger: Ledger::new(&settings).expect("an address"),
        ..fair.context.clone()
    };
    // Each of the four takes some turns; those of the others, who have no buyers, come between.
    let (mut at, mut turns) = (Position::default(), Vec::new());
    for _ in 0..20 {
        let round = run_once(&context, &at).await.expect("it can be found out");
        at = round.expect("nobody else compares").next;
        turns.push(format!("{at:?}"));
    }
    for lane in &sale.lanes {
        let name = format!("({lane}, {}): Names(\"", sale.no);
        let up_to = |turn: &String| {
            let (_, rest) = turn.split_once(&name)?;
            rest.split_once('"').map(|(buyer, _)| buyer.to_owned())
        };
        let begun = turns.iter().skip_while(|turn| up_to(turn).is_none());
        let looks: Vec<Option<String>> = begun.map(up_to).collect();
        let ended = looks.iter().position(Option::is_none);
        let ended = ended.unwrap_or_else(|| panic!("lane {lane} ends: {turns:#?}"));
        let mut buyers: Vec<&String> = looks[..ended].iter().flatten().collect();
        // One that has to wait stays where it is.
        buyers.dedup();
        assert!(
            buyers.len() > 1 && buyers.is_sorted(),
            "lane {lane} goes on where it was: {turns:#?}"
        );
    }
    context.ledger.close().await;
}

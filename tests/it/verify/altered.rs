//! Entries that are altered while they wait are found by their checksums while a gateway sells: what was altered is not
//! written, and everybody whose request is beyond doubt keeps what they got, under the id that they were told.
//!
//! Planted, one byte at a time, at random: of an entry its kind, nonce, the nonce before it, time, total, first, a
//! counter, a sale's number or time to pay, and its digest; of a slip in it its length, sale, flags, quantity, time to pay,
//! key, line, fingerprint, trace, both sums, order and user. And units in an entry of grants, and an entry that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flashgate::domain::difference::Kind;
use flashgate::domain::lane::LaneNo;
use flashgate::domain::outcome::Decision;
use flashgate::domain::reservation::{Ending, Status};
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::sale::Sale;
use flashgate::worker::drift::run_once;
use flashgate::worker::recovery;
use flashgate::worker::verify::Position;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Postgres, Transaction};
use tokio::time::sleep;

use super::drift::{sale, shop};
use super::fair::Fair;
use super::tamper::{alter, entry, field};
use crate::support::door::until;
use crate::support::road::HOLD_MS;

/// What is planted in all.
const PLANTED: usize = 100;
/// Who buys in the lane where something is altered.
const VICTIMS: usize = 6;
const FIELDS: [&str; 8] = ["kind", "nonce", "prev", "time", "total", "first", "items", "sum"];
/// Where the parts of a slip stand; the texts, whose lengths differ, follow.
const PARTS: [(usize, usize); 11] = [
    (0, 2),
    (2, 3),
    (4, 7),
    (7, 11),
    (11, 27),
    (27, 43),
    (43, 51),
    (51, 67),
    (67, 71),
    (71, 75),
    (75, 0),
];
/// Of [`PARTS`], those that an entry's own digest covers: the length and the sum of a slip.
const OF_THE_ENTRY: [usize; 2] = [0, 9];

/// Who keeps what they got, and who is not sure to.
struct Planted {
    lane: LaneNo,
    entry: (u32, u64),
    healthy: Vec<(ReservationId, String)>,
    doubtful: Option<ReservationId>,
    /// The entry as a whole is in doubt, not one slip of it.
    whole: bool,
}

fn flip(bytes: &mut [u8], random: &mut StdRng) {
    let at = random.random_range(0..bytes.len());
    bytes[at] ^= 1 << random.random_range(0..8);
}

/// Alters slip number `index` of a body somewhere; says whether the entry as a whole is in doubt for it.
fn spoil_slip(body: &mut [u8], index: usize, random: &mut StdRng) -> bool {
    let length = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let mut start = 0;
    for _ in 0..index {
        start += length(start);
    }
    let end = start + length(start);
    let part = random.random_range(0..PARTS.len() + 1);
    match PARTS.get(part) {
        Some((from, 0)) => flip(&mut body[start + from..end], random),
        Some((from, to)) => flip(&mut body[start + from..start + to], random),
        None => body[start + 3] ^= 1 << random.random_range(0..2),
    }
    OF_THE_ENTRY.contains(&part)
}

/// Makes the writer of a lane wait in the middle of a batch that it writes alone: what comes now is read when this is
/// over.
async fn hold_back<'p>(fair: &'p Fair, sale: &Arc<Sale>, lane: LaneNo, round: usize) -> Transaction<'p, Postgres> {
    // A recovery can't open a lane that we hold.
    let early = format!("early{round}");
    buy(fair, sale, &living_in(sale, lane, &early), &early).await;
    let mut tx = fair.desk.pool.begin().await.expect("begins");
    let held = "SELECT (ctid::text::point)[0]::int, (ctid::text::point)[1]::int FROM lane WHERE lane = $1 FOR UPDATE";
    let (page, tuple): (i32, i32) = sqlx::query_as(held)
        .bind(lane.to_i16())
        .fetch_one(&mut *tx)
        .await
        .expect("locks");
    let bait = format!("bait{round}");
    buy(fair, sale, &living_in(sale, lane, &bait), &bait).await;
    // Another lane's writer may wait too, for something else.
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE query LIKE '-- apply.begin%'
         AND wait_event_type = 'Lock' AND locktype = 'tuple' AND relation = 'lane'::regclass
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND page = {page} AND tuple = {tuple}"
    );
    until("the writer to wait", async || {
        (fair.desk.count(&waits).await > 0).then_some(())
    })
    .await;
    // A read may be under way since it tried with others. When all that is to run has run, it has come to Redis …
    sleep(Duration::from_millis(50)).await;
    // … and this ends it.
    let next = format!("next{round}");
    buy(fair, sale, &living_in(sale, lane, &next), &next).await;
    tx
}

fn living_in(sale: &Sale, lane: LaneNo, name: &str) -> String {
    let names = (0..).map(|n| format!("{name}-{n}"));
    let mut at_home = names.filter(|user| sale.home(&format!("u:{user}")) == lane);
    at_home.next().expect("somebody lives there")
}

async fn buy(fair: &Fair, sale: &Arc<Sale>, user: &str, order: &str) -> ReservationId {
    until("the lane to sell", async || {
        match fair.try_take(sale, user, order, 1, None).await {
            Ok(Decision::Reserved { id, .. } | Decision::Replayed(id)) => Some(id),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    })
    .await
}

/// Alters something of an entry that waits.
async fn plant(fair: &Fair, sale: &Arc<Sale>, lane: LaneNo, round: usize, random: &mut StdRng) -> Planted {
    let tx = hold_back(fair, sale, lane, round).await;
    let victims = join_all((0..VICTIMS).map(|n| async move {
        let order = format!("v{round}-{n}");
        (buy(fair, sale, &living_in(sale, lane, &order), &order).await, order)
    }));
    let mut healthy = victims.await;
    let (victim, _) = healthy[random.random_range(0..VICTIMS)];
    let at = (victim.place().epoch, victim.place().seq);
    let fields = entry(fair, lane, at).await;
    let mut doubtful = None;
    let whole = if random.random() {
        let name = FIELDS[random.random_range(0..FIELDS.len())];
        let mut value = field(&fields, name).to_vec();
        flip(&mut value, random);
        alter(fair, lane, at, name, value).await;
        true
    } else {
        let mut body = field(&fields, "body").to_vec();
        let before = body.clone();
        let whole = spoil_slip(&mut body, victim.place().index.into(), random);
        // A slip whose length alone was altered is still all that was packed.
        let length_alone = body
            .iter()
            .zip(&before)
            .position(|(now, was)| now != was)
            .expect("altered");
        let starts = |at: usize| slips(&before).any(|start| (start..start + 2).contains(&at));
        if !starts(length_alone) {
            doubtful = Some(victim);
            healthy.retain(|(id, _)| *id != victim);
        }
        alter(fair, lane, at, "body", body).await;
        whole
    };
    let after = format!("after{round}");
    healthy.push((buy(fair, sale, &living_in(sale, lane, &after), &after).await, after));
    tx.rollback().await.expect("unlocks");
    Planted {
        lane,
        entry: at,
        healthy,
        doubtful,
        whole,
    }
}

/// Where the slips of a body begin.
fn slips(body: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let next = |at: &usize| {
        let next = at + usize::from(u16::from_be_bytes([body[*at], body[*at + 1]]));
        (next < body.len()).then_some(next)
    };
    std::iter::successors(Some(0), next)
}

async fn assert_found(fair: &Fair, sale: &Sale, planted: &Planted) {
    let Planted { lane, entry, .. } = planted;
    let (lane, (epoch, seq)) = (lane.to_i16(), *entry);
    let name = format!("{sale}: entry {epoch}-{seq} of lane {lane}", sale = sale.id);
    let reported = format!(
        "SELECT count(*) FROM reconciliation_discrepancy WHERE cause = 'entry_altered' AND lane = {lane}
         AND sku_id = '{sale}' AND sale_id = '{sale}' AND figure = 'entry {epoch}-{seq}' AND status = 'corrected'",
        sale = sale.id
    );
    let set_aside = |index: u8| {
        format!(
            "SELECT count(*) FROM quarantine WHERE lane = {lane} AND sale_no = {} AND epoch = {epoch} AND seq = {seq}
             AND idx = {index}",
            sale.no
        )
    };
    let now = fair.desk.ledger.now().await.expect("a time");
    for (id, order) in &planted.healthy {
        until("healthy ones to be durable", async || {
            let kept = fair.desk.ledger.reservation(*id).await.ok()??;
            let is = (kept.status, kept.order.as_str(), kept.lines[0].quantity);
            assert_eq!(is, (Status::Reserved, order.as_str(), 1), "{name}");
            let (hold_ms, age_ms) = (kept.expires_at.0 - kept.created_at.0, now.0 - kept.created_at.0);
            assert_eq!(hold_ms, i64::from(HOLD_MS), "{name}");
            assert!((-60_000..600_000).contains(&age_ms), "{name}: made {age_ms} ms ago");
            Some(())
        })
        .await;
    }
    if let Some(id) = planted.doubtful {
        let kept = fair.desk.ledger.reservation(id).await.expect("reads");
        assert_eq!(kept.map(|kept| kept.status), Some(Status::Rejected), "{name}");
        assert_eq!(fair.desk.count(&set_aside(id.place().index)).await, 1, "{name}");
    }
    if planted.whole {
        until("the report", async || {
            (fair.desk.count(&reported).await == 1).then_some(())
        })
        .await;
    } else {
        assert_eq!(fair.desk.count(&reported).await, 0, "{name}");
    }
}

#[tokio::test]
async fn what_is_altered_in_the_queue_is_found_while_it_sells() {
    let mut random = StdRng::seed_from_u64(4_711);
    let fair = Fair::open().await;
    let sales = [sale(&fair, "amber").await, sale(&fair, "beryl").await];
    let mut selling = sales.to_vec();
    selling.push(Arc::clone(&fair.sale));
    let tasks = fair.serve();
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let planting = async {
        for round in 0..PLANTED {
            let sale = &sales[round % 2];
            let lane = sale.lanes[round / 2 % 2];
            let before = fair.desk.ledger.lanes().await.expect("reads");
            let planted = plant(&fair, sale, lane, round, &mut random).await;
            assert_found(&fair, sale, &planted).await;
            for (old, new) in before.iter().zip(fair.desk.ledger.lanes().await.expect("reads")) {
                let recovered = new.lane == lane && planted.whole;
                assert_eq!(new.epoch > old.epoch, recovered, "round {round}: lane {}", new.lane);
            }
        }
        over.store(true, Ordering::Relaxed);
    };
    let shoppers = (0..3).map(|n| shop(&fair, &selling, n, &over, &made));
    futures::join!(planting, join_all(shoppers));
    assert!(made.load(Ordering::Relaxed) > 0);
    // Whose slip could not be read still has a record of what was refused.
    until("records of the refused to be put right", async || {
        let round = run_once(&fair.context, &Position::default()).await.ok()??;
        let found = round.report.iter().flat_map(|report| &report.discrepancies);
        for found in found {
            assert_eq!(
                (found.cause.as_str(), found.status.as_str()),
                ("record_unknown", "corrected"),
                "{found:?}"
            );
        }
        round.report.is_none().then_some(())
    })
    .await;
    let others = "SELECT count(*) FROM quarantine q WHERE idx = -1 OR NOT EXISTS (
        SELECT 1 FROM inventory_reservation r WHERE r.reservation_id = q.reservation_id AND r.status = 'REJECTED')";
    assert_eq!(fair.desk.count(others).await, 0, "nobody else's");
    fair.assert_agrees().await;
    fair.context.stop.cancel();
    tasks.wait().await;
}

/// With no gateway there that would set it aside.
#[tokio::test]
async fn an_altered_reservation_is_found_where_nobody_reads_the_queue() {
    let fair = Fair::open().await;
    let id = fair.reserve("u0", "o0", 1, None).await;
    let (lane, at) = (fair.home("u0"), (id.place().epoch, id.place().seq));
    let mut body = field(&entry(&fair, lane, at).await, "body").to_vec();
    body[76] ^= 1;
    alter(&fair, lane, at, "body", body).await;
    let found = fair.assert_finds(&[Kind::EntryAltered]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let site = &found[0].site;
    assert_eq!((site.lane, site.sku_id.as_deref()), (Some(lane), Some("hot")));
    assert_eq!(site.of, Some(format!("entry {}-{}", at.0, at.1)));
}

#[tokio::test]
async fn altered_grants_are_found_with_their_sale_and_lane() {
    let fair = Fair::open().await;
    let id = fair.reserve("u0", "o0", 2, None).await;
    let lane = fair.home("u0");
    fair.settle().await;
    fair.end(id, Ending::Release).await;
    fair.number(lane).await;
    fair.deliver(lane).await;
    let meta = fair.meta(lane).await;
    let at = (meta.epoch, meta.seq);
    let mut body = field(&entry(&fair, lane, at).await, "body").to_vec();
    body[7] ^= 4;
    alter(&fair, lane, at, "body", body).await;
    let round = run_once(&fair.context, &Position::default())
        .await
        .expect("finds out")
        .expect("alone");
    let report = round.report.expect("a report");
    let [found] = &report.discrepancies[..] else {
        panic!("{report:?}")
    };
    assert_eq!(
        (found.cause.as_str(), found.lane),
        ("entry_altered", Some(lane.to_i16()))
    );
    assert_eq!(
        (found.sale_id.as_deref(), found.sku.as_deref()),
        (Some("hot"), Some("hot"))
    );
    recovery::run_once(&fair.context).await.expect("recovers");
    fair.settle().await;
    fair.assert_agrees().await;
    assert_eq!(
        fair.desk.count("SELECT count(*) FROM quarantine WHERE idx = -1").await,
        1
    );
}

//! Faults between Redis and the ledger.

use flashgate::domain::difference::{Figure, Kind};
use flashgate::domain::entry::SlipKeys;
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::record::{Live, Record};
use flashgate::domain::reservation_id::Place;
use fred::types::Value;

use super::fair::Fair;
use super::tamper::seal;

pub(super) async fn raise_counter(fair: &Fair, lane: LaneNo, units: i64) {
    let args = vec![fair.key(lane, "sale").into(), "free".into(), units.into()];
    fair.redis("HINCRBY", args).await;
}

/// A record of one unit that nobody reserved.
pub(super) async fn plant_record(fair: &Fair, user: &str) -> Place {
    let place = Place {
        epoch: 1,
        seq: 500,
        index: 3,
        nonce: [7, 8, 9],
    };
    let keys = SlipKeys {
        explicit: false,
        key: KeyHash([1; 16]),
        line: KeyHash([3; 16]),
        fingerprint: Fingerprint([2; 8]),
    };
    let record = Record {
        live: vec![Live::new(&format!("u:{user}"), &keys, 1, place)],
        tombstones: Vec::new(),
    };
    let key = fair.key(fair.home(user), "buyers");
    let args = vec![
        key.into(),
        format!("u:{user}").into(),
        Value::Bytes(record.pack().into()),
    ];
    fair.redis("HSET", args).await;
    place
}

pub(super) async fn lose_record(fair: &Fair, user: &str) {
    let key = fair.key(fair.home(user), "buyers");
    let gone = fair.redis("HDEL", vec![key.into(), format!("u:{user}").into()]).await;
    assert_eq!(gone, Value::Integer(1));
}

#[tokio::test]
async fn a_counter_raised_by_one_is_found() {
    let fair = Fair::busy().await;
    let lane = fair.sale.lanes[1];
    raise_counter(&fair, lane, 1).await;
    let found = fair.assert_finds(&[Kind::Counter]).await;
    assert_eq!(found.len(), 1);
    let site = &found[0].site;
    assert_eq!(
        (site.lane, site.sale_id.as_deref(), site.sku_id.as_deref()),
        (Some(lane), Some("hot"), Some("hot"))
    );
    let (Figure::Number(expected), Figure::Number(is)) = (&found[0].expected, &found[0].found) else {
        panic!("{found:?}")
    };
    assert_eq!(is - expected, 1);
    // The writer takes note of it and goes on; it stays a difference.
    fair.reserve("afterwards", "after", 1, None).await;
    fair.reserve("afterwards2", "after2", 1, None).await;
    fair.settle().await;
    fair.assert_finds(&[Kind::Counter]).await;
}

#[tokio::test]
async fn a_buyer_record_without_a_reservation_is_found() {
    let fair = Fair::busy().await;
    let place = plant_record(&fair, "ghost").await;
    let found = fair.assert_finds(&[Kind::RecordUnknown]).await;
    assert_eq!(found.len(), 1);
    let (site, lane) = (&found[0].site, fair.home("ghost"));
    assert_eq!((site.buyer.as_deref(), site.lane), (Some("u:ghost"), Some(lane)));
    assert_eq!(site.reservation_id, Some(fair.context.flash.id_key().seal(lane, place)));
}

#[tokio::test]
async fn a_reservation_without_a_record_is_found() {
    let fair = Fair::busy().await;
    lose_record(&fair, "u0").await;
    lose_record(&fair, "late").await;
    let found = fair.assert_finds(&[Kind::RecordMissing]).await;
    let mut buyers: Vec<_> = found.iter().filter_map(|d| d.site.buyer.as_deref()).collect();
    buyers.sort_unstable();
    buyers.dedup();
    assert_eq!(buyers, ["u:late", "u:u0"], "durable or not");
}

#[tokio::test]
async fn a_record_that_tells_other_units_is_found() {
    let fair = Fair::open().await;
    let id = fair.reserve("u0", "o0", 2, None).await;
    fair.settle().await;
    let key = fair.key(fair.home("u0"), "buyers");
    let Value::Bytes(bytes) = fair.redis("HGET", vec![key.clone().into(), "u:u0".into()]).await else {
        panic!("a record")
    };
    let mut record = Record::unpack(&bytes).expect("a record");
    let keys = SlipKeys {
        explicit: false,
        key: KeyHash::order_line("o0", "hot", "wh1"),
        line: KeyHash::order_line("o0", "hot", "wh1"),
        fingerprint: Fingerprint(record.live[0].fingerprint),
    };
    record.live[0] = Live::new("u:u0", &keys, 1, id.place());
    fair.redis(
        "HSET",
        vec![key.into(), "u:u0".into(), Value::Bytes(record.pack().into())],
    )
    .await;
    let found = fair.assert_finds(&[Kind::RecordDiffers]).await;
    assert_eq!(found[0].site.reservation_id, Some(id));
}

#[tokio::test]
async fn an_entry_with_another_nonce_breaks_the_chain() {
    let fair = Fair::open().await;
    let lane = fair.home("u0");
    fair.reserve("u0", "o0", 1, None).await;
    fair.settle().await;
    fair.reserve("u0", "o1", 1, None).await;
    let queue = fair.key(lane, "queue");
    let last = fair.redis(
        "XREVRANGE",
        vec![queue.clone().into(), "+".into(), "-".into(), "COUNT".into(), "2".into()],
    );
    let Value::Array(entries) = last.await else {
        panic!("entries")
    };
    let [Value::Array(last), Value::Array(before)] = &entries[..] else {
        panic!("two entries")
    };
    let (id, Value::Array(fields)) = (last[0].clone(), last[1].clone()) else {
        panic!("fields")
    };
    let mut fields = fields;
    let nonce = fields
        .iter()
        .position(|field| field.as_str().as_deref() == Some("nonce"))
        .expect("a nonce");
    fields[nonce + 1] = Value::Bytes(vec![0; 8].into());
    seal(&id.as_str().expect("an id"), &mut fields);
    fair.redis("XDEL", vec![queue.clone().into(), id.clone()]).await;
    fair.redis("XSETID", vec![queue.clone().into(), before[0].clone()])
        .await;
    let mut args: Vec<Value> = vec![queue.into(), id];
    args.append(&mut fields);
    fair.redis("XADD", args).await;
    let found = fair.assert_finds(&[Kind::QueueChain]).await;
    assert_eq!(found[0].site.lane, Some(lane));
}

#[tokio::test]
async fn an_entry_that_is_gone_breaks_the_chain() {
    let fair = Fair::open().await;
    let lane = fair.home("u0");
    let id = fair.reserve("u0", "o0", 1, None).await;
    fair.reserve("u0", "o1", 1, None).await;
    let entry = format!("{}-{}", id.place().epoch, id.place().seq);
    fair.redis("XDEL", vec![fair.key(lane, "queue").into(), entry.into()])
        .await;
    let found = fair.assert_finds(&[Kind::QueueChain]).await;
    assert_eq!(found[0].site.lane, Some(lane));
}

#[tokio::test]
async fn a_lane_that_redis_lost_is_found() {
    let fair = Fair::busy().await;
    let lane = fair.sale.lanes[0];
    for what in ["meta", "queue", "sale", "buyers"] {
        fair.redis("DEL", vec![fair.key(lane, what).into()]).await;
    }
    let found = fair.assert_finds(&[Kind::LaneEpoch]).await;
    assert_eq!(found[0].site.lane, Some(lane));
}

#[tokio::test]
async fn a_sale_that_a_lane_lost_is_found() {
    let fair = Fair::busy().await;
    let lane = fair.sale.lanes[0];
    fair.redis("DEL", vec![fair.key(lane, "sale").into()]).await;
    let found = fair.assert_finds(&[Kind::LaneSale]).await;
    assert_eq!(
        (found[0].site.lane, found[0].site.sale_id.as_deref()),
        (Some(lane), Some("hot"))
    );
}

#[tokio::test]
async fn a_sale_that_the_ledger_does_not_have_in_a_lane_is_found() {
    let fair = Fair::busy().await;
    let lane = fair.sale.lanes[0];
    let args = vec![fair.key(lane, "meta").into(), "sale:4711".into(), "1".into()];
    fair.redis("HSET", args).await;
    let found = fair.assert_finds(&[Kind::LaneSale]).await;
    assert_eq!(
        (found[0].site.lane, found[0].site.of.as_deref()),
        (Some(lane), Some("sale number 4711"))
    );
}

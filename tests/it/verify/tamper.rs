//! Entries of a queue, read and altered behind the gateways' back.

use flashgate::domain::entry::RawEntry;
use flashgate::domain::lane::LaneNo;
use fred::types::Value;

use super::fair::Fair;

/// Replaces entries of a queue from an id on: the tail that this script reads, with one value altered.
const ALTER: &str = "
local queue, id, field, value = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local tail = redis.call('XRANGE', queue, id, '+')
local before = redis.call('XREVRANGE', queue, '(' .. id, '-', 'COUNT', 1)
for _, entry in ipairs(tail) do
  redis.call('XDEL', queue, entry[1])
end
redis.call('XSETID', queue, before[1] and before[1][1] or '0-1')
for n, entry in ipairs(tail) do
  if n == 1 then
    for f = 1, #entry[2], 2 do
      if entry[2][f] == field then
        entry[2][f + 1] = value
      end
    end
  end
  redis.call('XADD', queue, entry[1], unpack(entry[2]))
end
return #tail";

pub(super) fn field<'f>(fields: &'f [(String, Vec<u8>)], name: &str) -> &'f [u8] {
    let found = fields.iter().find(|(field, _)| field == name);
    &found.expect("every entry has it").1
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Bytes(bytes) => bytes.to_vec(),
        other => other.as_str().expect("text").as_bytes().to_vec(),
    }
}

/// The fields of an entry.
pub(super) async fn entry(fair: &Fair, lane: LaneNo, (epoch, seq): (u32, u64)) -> Vec<(String, Vec<u8>)> {
    let id = format!("{epoch}-{seq}");
    let args = vec![fair.key(lane, "queue").into(), id.clone().into(), id.into()];
    let Value::Array(entries) = fair.redis("XRANGE", args).await else {
        panic!("entries")
    };
    let [Value::Array(entry)] = &entries[..] else {
        panic!("one entry: {entries:?}")
    };
    let Value::Array(fields) = &entry[1] else {
        panic!("fields")
    };
    let pair = |pair: &[Value]| (pair[0].as_str().expect("a name").into_owned(), bytes(&pair[1]));
    fields.chunks(2).map(pair).collect()
}

/// Gives an entry's fields the digest that they would have if a script had written them so.
pub(super) fn seal(id: &str, fields: &mut [Value]) {
    let of = |name: &str| {
        let pair = fields.chunks(2).find(|pair| pair[0].as_str().as_deref() == Some(name));
        bytes(&pair.expect("every entry has it")[1])
    };
    let (epoch, seq) = id.split_once('-').expect("an id");
    let raw = RawEntry {
        id: (epoch.parse().expect("an epoch"), seq.parse().expect("a seq")),
        kind: of("kind"),
        nonce: of("nonce"),
        prev: of("prev"),
        time: of("time"),
        total: of("total"),
        first: of("first"),
        items: of("items"),
        body: of("body"),
        sum: Vec::new(),
    };
    let sum = raw.digest().expect("slips");
    *fields.last_mut().expect("the sum comes last") = sum.into();
}

/// Alters one field of an entry that waits, in one step.
pub(super) async fn alter(fair: &Fair, lane: LaneNo, (epoch, seq): (u32, u64), field: &str, value: Vec<u8>) {
    let args = vec![
        ALTER.into(),
        1.into(),
        fair.key(lane, "queue").into(),
        format!("{epoch}-{seq}").into(),
        field.into(),
        Value::Bytes(value.into()),
    ];
    let Value::Integer(1..) = fair.redis("EVAL", args).await else {
        panic!("nothing was altered")
    };
}

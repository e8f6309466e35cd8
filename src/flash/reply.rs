//! The one decoder of what the scripts answer.

use fred::types::Value;

use super::error::FlashError;
use crate::domain::entry::RawEntry;
use crate::domain::reservation_id::Place;

/// A value that we do not understand: a defect, never an outcome.
pub(crate) fn broken(what: &str, value: &Value) -> FlashError {
    FlashError::Broken(format!("{what}: {:?}", value.kind()))
}

pub(crate) fn array(value: Value, what: &str) -> Result<Vec<Value>, FlashError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Null => Ok(Vec::new()),
        other => Err(broken(what, &other)),
    }
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Bytes(b) => b.to_vec(),
        Value::String(s) => s.as_bytes().to_vec(),
        Value::Integer(i) => i.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// Whether it is this word.
pub(crate) fn is_word(value: &Value, word: &str) -> bool {
    value.as_bytes() == Some(word.as_bytes())
}

pub(crate) fn text(value: &Value) -> String {
    String::from_utf8_lossy(&bytes(value)).into_owned()
}

pub(crate) fn number(value: &Value) -> Result<i64, FlashError> {
    match value {
        Value::Integer(i) => Ok(*i),
        other => text(other).parse().map_err(|_| broken("a number", other)),
    }
}

/// A number that can't be negative.
pub(crate) fn count(value: &Value) -> Result<u64, FlashError> {
    u64::try_from(number(value)?).map_err(|_| broken("a count", value))
}

pub(crate) fn place(value: &Value) -> Result<Place, FlashError> {
    bytes(value)
        .try_into()
        .map(Place::unpack)
        .map_err(|_| broken("a place", value))
}

/// Pairs of field and value, as HGETALL gives them.
pub(crate) fn fields(value: Value) -> Result<Vec<(String, Vec<u8>)>, FlashError> {
    let flat = array(value, "fields")?;
    Ok(flat
        .chunks_exact(2)
        .map(|pair| (text(&pair[0]), bytes(&pair[1])))
        .collect())
}

/// The entries of an XRANGE.
pub(crate) fn entries(value: Value) -> Result<Vec<RawEntry>, FlashError> {
    array(value, "entries")?.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Result<RawEntry, FlashError> {
    let mut parts = array(value, "an entry")?.into_iter();
    let (Some(id), Some(fields_of)) = (parts.next(), parts.next()) else {
        return Err(FlashError::Broken("an entry without fields".into()));
    };
    let id_text = text(&id);
    let (epoch, seq) = id_text.split_once('-').ok_or_else(|| broken("an entry id", &id))?;
    let number = |part: &str| part.parse::<u64>().map_err(|_| broken("an entry id", &id));
    let id = (
        u32::try_from(number(epoch)?).map_err(|_| broken("an epoch", &id))?,
        number(seq)?,
    );
    let mut raw = RawEntry {
        id,
        kind: Vec::new(),
        nonce: Vec::new(),
        prev: Vec::new(),
        time: Vec::new(),
        total: Vec::new(),
        first: Vec::new(),
        items: Vec::new(),
        body: Vec::new(),
        sum: Vec::new(),
    };
    for (field, value) in fields(fields_of)? {
        match field.as_str() {
            "kind" => raw.kind = value,
            "nonce" => raw.nonce = value,
            "prev" => raw.prev = value,
            "time" => raw.time = value,
            "total" => raw.total = value,
            "first" => raw.first = value,
            "items" => raw.items = value,
            "body" => raw.body = value,
            "sum" => raw.sum = value,
            _ => {}
        }
    }
    Ok(raw)
}

/// The entries of an XREAD of one stream.
pub(crate) fn read_entries(value: Value) -> Result<Vec<RawEntry>, FlashError> {
    match array(value, "streams")?.pop() {
        None => Ok(Vec::new()),
        Some(stream) => entries(array(stream, "a stream")?.pop().unwrap_or(Value::Null)),
    }
}

//! One call of `reserve.lua`: packing up to 128 requests, and reading what came of them.

use fred::types::Value;

use super::error::FlashError;
use super::keys::LaneKeys;
use super::reply::{array, broken, bytes, count, is_word, number, place, text};
use crate::domain::entry::set_sale_index;
use crate::domain::lane::{Epoch, Nonce, Seq};
use crate::domain::reservation_id::Place;
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;

/// A request on its way to a lane.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) sale_no: i32,
    pub(crate) buyer: String,
    pub(crate) slip: Vec<u8>,
    pub(crate) ttl_ms: u32,
}

/// What names a call: the fence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) epoch: Epoch,
    pub(crate) seen: Seq,
    pub(crate) nonce: Nonce,
    pub(crate) now: Millis,
}

impl Fence {
    pub(crate) fn args(&self) -> Vec<Value> {
        vec![
            self.epoch.to_string().into(),
            self.seen.to_string().into(),
            Value::Bytes(self.nonce.0.to_vec().into()),
            self.now.0.to_string().into(),
        ]
    }
}

/// A lane's answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reserved {
        place: Place,
        created_at: Millis,
        expires_at: Millis,
    },
    Replayed(Place),
    KeyReused,
    Ended(Place),
    Unknown,
    NotLive(SaleState),
    UserRequired,
    TooLong {
        hold_max_ms: u32,
    },
    Order(Place),
    Rate {
        wait_ms: u64,
    },
    Limit {
        limit: u32,
        held: u32,
    },
    Insufficient {
        free: i64,
    },
    Full,
    Behind,
}

/// What a call did.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    /// The lane's seq after it.
    pub(crate) seq: Seq,
    /// In the order of the requests: the answer, and the number of the sale's last settings.
    pub(crate) answers: Vec<(Answer, i64)>,
}

/// The keys and arguments of a call.
pub(crate) fn pack(keys: &LaneKeys, fence: &Fence, queue_max: u64, requests: &[Request]) -> (Vec<String>, Vec<Value>) {
    let mut sales: Vec<i32> = Vec::with_capacity(1);
    let mut key_list = vec![keys.meta(), keys.queue()];
    let mut args = fence.args();
    args.reserve(1 + 2 * requests.len());
    args.push(queue_max.to_string().into());
    for request in requests {
        let index = sales.iter().position(|no| *no == request.sale_no).unwrap_or_else(|| {
            sales.push(request.sale_no);
            key_list.extend(keys.of_sale(request.sale_no));
            sales.len() - 1
        });
        let mut slip = request.slip.clone();
        set_sale_index(
            &mut slip,
            u8::try_from(index + 1).expect("a call holds at most 128 requests"),
        );
        args.push(request.buyer.as_str().into());
        args.push(Value::Bytes(slip.into()));
    }
    (key_list, args)
}

/// Reads the reply to a call.
///
/// # Errors
/// `Stale` where the lane refused the fence; `Unavailable` where the reply is another call's.
pub(crate) fn unpack(reply: Value, fence: &Fence, requests: &[Request]) -> Result<Called, FlashError> {
    let mut parts = check_nonce(reply, fence)?;
    let [_, word, rest @ ..] = parts.as_mut_slice() else {
        return Err(FlashError::Broken("a short reply".into()));
    };
    match (text(word).as_str(), rest) {
        ("stale", _) => Err(FlashError::Stale),
        ("ok", [seq, time, _grant, figures, answers]) => {
            let seq = count(seq)?;
            let time = Millis(number(time)?);
            let figures = read_figures(figures.take())?;
            let sale_index = sale_indexes(requests);
            let mut reserved = 0u8;
            let mut out = Vec::with_capacity(requests.len());
            for (i, value) in array(answers.take(), "answers")?.into_iter().enumerate() {
                let request = requests
                    .get(i)
                    .ok_or_else(|| FlashError::Broken("too many answers".into()))?;
                let answer = if is_word(&value, "reserved") {
                    let hold_ms = if request.ttl_ms > 0 {
                        request.ttl_ms
                    } else {
                        figures[sale_index[i]].hold_ms
                    };
                    let place = Place::new(fence.epoch, seq, reserved, fence.nonce);
                    reserved += 1;
                    Answer::Reserved {
                        place,
                        created_at: time,
                        expires_at: time.plus_ms(hold_ms.into()),
                    }
                } else {
                    answer(value)?
                };
                out.push((answer, figures[sale_index[i]].set));
            }
            if out.len() != requests.len() {
                return Err(FlashError::Broken("too few answers".into()));
            }
            Ok(Called { seq, answers: out })
        }
        _ => Err(broken("a reply", word)),
    }
}

/// The parts of a reply that is this call's.
pub(crate) fn check_nonce(reply: Value, fence: &Fence) -> Result<Vec<Value>, FlashError> {
    let parts = array(reply, "a reply")?;
    match parts.first() {
        Some(nonce) if bytes(nonce) == fence.nonce.0 => Ok(parts),
        _ => Err(FlashError::Unavailable("the reply belongs to another call".into())),
    }
}

fn sale_indexes(requests: &[Request]) -> Vec<usize> {
    let mut sales: Vec<i32> = Vec::new();
    let mut index = |no: i32| {
        sales.iter().position(|known| *known == no).unwrap_or_else(|| {
            sales.push(no);
            sales.len() - 1
        })
    };
    requests.iter().map(|request| index(request.sale_no)).collect()
}

/// What a call tells of a sale.
#[derive(Clone, Copy)]
struct Figures {
    hold_ms: u32,
    set: i64,
}

fn read_figures(value: Value) -> Result<Vec<Figures>, FlashError> {
    let read = |figures: Value| match array(figures, "figures")?.as_slice() {
        [_free, hold, set] => Ok(Figures {
            hold_ms: u32::try_from(count(hold)?).map_err(|_| broken("a hold", hold))?,
            set: number(set)?,
        }),
        _ => Err(FlashError::Broken("figures".into())),
    };
    array(value, "figures")?.into_iter().map(read).collect()
}

fn answer(value: Value) -> Result<Answer, FlashError> {
    let parts = match value {
        Value::Array(parts) => parts,
        word => vec![word],
    };
    let small = |v: &Value| u32::try_from(count(v)?).map_err(|_| broken("a small count", v));
    let word = parts.first().map(text).unwrap_or_default();
    Ok(match (word.as_str(), &parts[1..]) {
        ("replayed", [at]) => Answer::Replayed(place(at)?),
        ("key_reused", []) => Answer::KeyReused,
        ("ended", [at]) => Answer::Ended(place(at)?),
        ("unknown", []) => Answer::Unknown,
        ("not_live", [state]) => {
            Answer::NotLive(SaleState::parse(&text(state)).ok_or_else(|| broken("a state", state))?)
        }
        ("user_required", []) => Answer::UserRequired,
        ("too_long", [max]) => Answer::TooLong {
            hold_max_ms: small(max)?,
        },
        ("order", [at]) => Answer::Order(place(at)?),
        ("rate", [wait]) => Answer::Rate { wait_ms: count(wait)? },
        ("limit", [limit, held]) => Answer::Limit {
            limit: small(limit)?,
            held: small(held)?,
        },
        ("insufficient", [free]) => Answer::Insufficient { free: number(free)? },
        ("full", []) => Answer::Full,
        ("behind", []) => Answer::Behind,
        _ => return Err(FlashError::Broken(format!("answered {word:?}"))),
    })
}

//! What clients saw, as JSON lines: one line an operation, a fault, a healing or a rest, in the order in which they were
//! over. The judge reads nothing else of the clients.
//!
//! An operation is written when it returned; one that never did is written at the end, `unknown` and without `returned`.
//! The first field of a line (`op`, `fault`, `healed`, `settled`) names what it is. Fields that say nothing are left out.
//!
//! What happens between the lines is left to others: who makes the load says here what it saw, not what it meant.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::domain::id::{LocationId, OrderId, SaleId, Sku, UserId};
use crate::domain::reservation::{Ack, Cause, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

/// An instant, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Moment {
    /// Microseconds since the history began. Orders what clients saw; comes first, so that moments order by it.
    pub mono_us: i64,
    /// Microseconds since 1970, by Postgres' clock as its offset was known then. Never orders anything: it may be off.
    pub wall_us: i64,
}

/// Tells moments: one for all clients of a history.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    wall_us: i64,
}

impl Stopwatch {
    /// Starts now, which is `wall` by Postgres' clock.
    #[must_use]
    pub fn start(wall: Millis) -> Self {
        Stopwatch {
            began: Instant::now(),
            wall_us: wall.0.saturating_mul(1_000),
        }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        let mono_us = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        Moment {
            mono_us,
            wall_us: self.wall_us.saturating_add(mono_us),
        }
    }
}

/// What a client, or the admin, asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `POST …/reservations`, of one line.
    Reserve,
    /// `POST …/commit`.
    Commit,
    /// `POST …/release`.
    Release,
    /// `POST …/extend`.
    Extend,
    /// `GET …/{reservationId}`.
    Get,
    /// A sale's start, stop or change, by an admin: `action` says which.
    Sale,
}

/// What an admin did to a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It sells from here on.
    Start,
    /// It is over.
    Stop,
    /// Its settings changed, `allocation` among them where it is named.
    Patch,
}

/// What a client can know of the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A 2xx: it has taken effect.
    Ok,
    /// A problem that decides (400, 404, 409, 422): it has none.
    Refused,
    /// The connection broke, it timed out, or 5xx, 429, 503: it may have taken effect, or still may.
    Unknown,
}

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// Its number, unique in the history.
    pub op: u64,
    /// Who asked.
    pub client: u32,
    /// Which gateway was asked.
    pub gateway: u32,
    /// For what.
    pub kind: Kind,
    /// The idempotency key, where one was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of a reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Of a reserve that names a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The sale that the client believes to be asking, or that the admin changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sale_id: Option<SaleId>,
    /// Of a reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<Sku>,
    /// Of a reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location_id: Option<LocationId>,
    /// Units asked for, of a reserve; of others the units that the answer told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<i64>,
    /// Before its first byte left.
    pub invoked: Moment,
    /// After its last byte came, or when the client gave up; none: it never returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Moment>,
    /// What the client knows.
    pub outcome: Outcome,
    /// Of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The reservation asked about, or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// Its `status` in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_status: Option<Status>,
    /// Its `cause` in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Its `ack` in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
    /// What `INSUFFICIENT_STOCK` said was free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// The answer was `Idempotent-Replayed`.
    #[serde(default)]
    pub replayed: bool,
    /// Of a commit: the units had to be taken again.
    #[serde(default)]
    pub rescued: bool,
    /// Of a release: whether the units were usable again when it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restocked: Option<bool>,
    /// Of a sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Of a sale: the units that it has from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<i64>,
}

impl Operation {
    /// One that has been asked and has not returned: `unknown`, and nothing else known.
    #[must_use]
    pub fn asked(op: u64, kind: Kind, invoked: Moment) -> Self {
        Operation {
            op,
            client: 0,
            gateway: 0,
            kind,
            key: None,
            order_id: None,
            user_id: None,
            sale_id: None,
            sku_id: None,
            location_id: None,
            quantity: None,
            invoked,
            returned: None,
            outcome: Outcome::Unknown,
            status: None,
            code: None,
            reservation_id: None,
            reservation_status: None,
            cause: None,
            ack: None,
            available: None,
            replayed: false,
            rescued: false,
            restocked: None,
            action: None,
            allocation: None,
        }
    }
}

/// What a fault may cost, at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loses {
    /// Nothing that was answered.
    Nothing,
    /// Reservations that were merely accepted when it struck.
    Accepted,
    /// Also durable ones: Postgres failed over without a synchronous standby.
    Asynchronous,
}

/// A fault, from its first effect to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// What was done.
    pub fault: String,
    /// In which round.
    pub round: u32,
    /// Before it was done.
    pub from: Moment,
    /// After it was undone, or was over.
    pub to: Moment,
    /// The loss that is declared for it.
    pub loses: Loses,
}

/// The stack answers as healthy again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Healed {
    /// When that was first seen.
    pub healed: Moment,
    /// Of which round.
    pub round: u32,
}

/// The stack has caught up, or whoever waited for it gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settled {
    /// When it was last looked at.
    pub settled: Moment,
    /// Of which round.
    pub round: u32,
    /// Queue entries that were not durable then, over all lanes.
    pub backlog: u64,
    /// Units by which counters differed then, over all buckets, each by its amount.
    pub drift: u64,
}

/// A line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// Somebody asked.
    Operation(Box<Operation>),
    /// Something was broken.
    Fault(Fault),
    /// It works again.
    Healed(Healed),
    /// Nothing is left to catch up with.
    Settled(Settled),
}

/// The history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file can't.
    #[error("the history can't be read")]
    Io(#[from] io::Error),
    /// A line is none of a history.
    #[error("line {line} of the history")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A history that is being written, by as many clients as like.
#[derive(Debug)]
pub struct Recorder {
    out: Mutex<BufWriter<File>>,
}

impl Recorder {
    /// A new history; a file that is there is replaced.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Recorder {
            out: Mutex::new(BufWriter::new(File::create(path)?)),
        })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn append(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
    }

    /// Everything appended so far is in the file when this returns.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn flush(&self) -> io::Result<()> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// A whole history, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order of their lines.
    pub operations: Vec<Operation>,
    /// In the order of their lines.
    pub faults: Vec<Fault>,
    /// In the order of their lines.
    pub healed: Vec<Healed>,
    /// In the order of their lines.
    pub settled: Vec<Settled>,
}

impl History {
    /// Reads the file that a [`Recorder`] wrote.
    ///
    /// # Errors
    /// [`HistoryError`]: a line that is cut off is none of a history either.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        Self::read(BufReader::new(File::open(path)?))
    }

    /// Reads all lines.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn read(lines: impl BufRead) -> Result<Self, HistoryError> {
        let mut history = History::default();
        for (at, text) in lines.lines().enumerate() {
            let text = text?;
            let line = parse(&text).map_err(|source| HistoryError::Line { line: at + 1, source })?;
            history.push(line);
        }
        Ok(history)
    }

    /// Adds a line.
    pub fn push(&mut self, line: Line) {
        match line {
            Line::Operation(operation) => self.operations.push(*operation),
            Line::Fault(fault) => self.faults.push(fault),
            Line::Healed(healed) => self.healed.push(healed),
            Line::Settled(settled) => self.settled.push(settled),
        }
    }
}

/// By the first field, so that an error names what is wrong with a line of that sort.
fn parse(text: &str) -> serde_json::Result<Line> {
    let first = text.split('"').nth(1).unwrap_or_default();
    match first {
        "fault" => serde_json::from_str(text).map(Line::Fault),
        "healed" => serde_json::from_str(text).map(Line::Healed),
        "settled" => serde_json::from_str(text).map(Line::Settled),
        _ => serde_json::from_str(text).map(Line::Operation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let at = |mono_us| Moment {
            mono_us,
            wall_us: 1_700_000_000_000_000 + mono_us,
        };
        let mut operation = Operation::asked(17, Kind::Reserve, at(5));
        operation.key = Some("k".to_owned());
        operation.order_id = OrderId::try_from("o").ok();
        operation.quantity = Some(2);
        operation.returned = Some(at(9));
        operation.outcome = Outcome::Ok;
        operation.status = Some(201);
        operation.reservation_id = Some(ReservationId(uuid::Uuid::from_u128(7)));
        operation.reservation_status = Some(Status::Reserved);
        operation.ack = Some(Ack::Durable);
        let fault = Fault {
            fault: "kill_redis".to_owned(),
            round: 3,
            from: at(10),
            to: at(11),
            loses: Loses::Accepted,
        };
        vec![
            Line::Operation(Box::new(operation)),
            Line::Operation(Box::new(Operation::asked(18, Kind::Get, at(6)))),
            Line::Fault(fault),
            Line::Healed(Healed {
                healed: at(12),
                round: 3,
            }),
            Line::Settled(Settled {
                settled: at(13),
                round: 3,
                backlog: 0,
                drift: 0,
            }),
        ]
    }

    #[test]
    fn what_is_recorded_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a file");
        let mut expected = History::default();
        for line in lines() {
            recorder.append(&line).expect("room");
            expected.push(line);
        }
        recorder.flush().expect("room");
        assert_eq!(History::open(&path).expect("a history"), expected);
    }

    #[test]
    fn a_line_reads_as_documented() {
        let line = serde_json::to_value(&lines()[0]).expect("JSON");
        let expected = serde_json::json!({
            "op": 17, "client": 0, "gateway": 0, "kind": "reserve", "key": "k", "orderId": "o", "quantity": 2,
            "invoked": {"wallUs": 1_700_000_000_000_005_i64, "monoUs": 5},
            "returned": {"wallUs": 1_700_000_000_000_009_i64, "monoUs": 9},
            "outcome": "ok", "status": 201, "reservationId": "0000000000000000000000000w",
            "reservationStatus": "RESERVED", "ack": "durable", "replayed": false, "rescued": false,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_that_is_cut_off_is_named() {
        let text = "{\"healed\":{\"monoUs\":1,\"wallUs\":1},\"round\":1}\n{\"op\":1,\"cli";
        let error = History::read(text.as_bytes()).expect_err("it is cut off");
        assert!(matches!(error, HistoryError::Line { line: 2, .. }), "{error:?}");
    }
}

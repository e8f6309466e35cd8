//! A history on disk: written line by line by all clients, read as a whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{Fault, Healed, Line, Operation, Settled};

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
    use crate::domain::id::OrderId;
    use crate::domain::reservation::{Ack, Status};
    use crate::domain::reservation_id::ReservationId;
    use crate::drill::history::{Kind, Loses, Moment, Outcome};

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

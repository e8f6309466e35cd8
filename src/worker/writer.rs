//! The batch writer: carries a lane's queue into the ledger, once each, in order.
//!
//! It reads what follows the cursor, checks that every entry names the one before it, and hands the batch to the ledger,
//! which moves the cursor in the same transaction. Then it tells who waits. It clocks itself: what comes while a
//! transaction goes on lies ready when it is over, and is the next batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Context;
use super::ahead::Ahead;
use super::survivors::tell_altered_slips;
use super::telling::{Telling, notice};
use super::together::Together;
use crate::domain::entry::{Accepted, Body, Entry, RawEntry};
use crate::domain::lane::{Cursor, LaneNo};
use crate::domain::outcome::Durability;
use crate::domain::reservation::{Cause, Status};
use crate::domain::reservation_id::{Place, ReservationId};
use crate::flash::{FlashError, Notice};
use crate::ledger::LedgerError;
use crate::ledger::apply::{Applied, Batch, Done, Refused};
use crate::metric;

/// How often an idle writer asks whether the ledger stands where it left it.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How long the writer goes on asking a Postgres that does not answer before it starts over.
const STUBBORN: Duration = Duration::from_secs(5);

/// Why a writer stopped.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The lane is another's, or at another epoch.
    #[error("the lane is another's")]
    NotOwner,
    /// The queue does not continue the cursor.
    #[error("the lane's queue does not continue the ledger: {0}")]
    Fork(String),
    /// Too many entries are bad for it to be their own fault.
    #[error("{0} or more reservations of one batch can't be stored: the lane waits")]
    Poisoned(usize),
    /// Redis can't be asked.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// Postgres can't be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The writer of one lane at one epoch.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    own: Own<'a>,
    queue: Ahead,
    cursor: Cursor,
    /// When the ledger was last asked where it stands.
    compared: Instant,
    telling: Telling<'a>,
}

/// A lane, and what it takes to write it.
#[derive(Clone, Copy, Debug)]
struct Own<'a> {
    context: &'a Context,
    together: &'a Together,
    lane: LaneNo,
}

/// What was written, and what came of it.
struct Carried {
    entries: Arc<[Entry]>,
    done: Done,
    notice: Notice,
}

impl<'a> Writer<'a> {
    /// A writer that goes on from this cursor.
    pub(super) fn new(context: &'a Context, together: &'a Together, lane: LaneNo, cursor: Cursor) -> Self {
        Writer {
            own: Own {
                context,
                together,
                lane,
            },
            queue: Ahead::new(context.flash.queue_reader(lane), cursor),
            cursor,
            compared: Instant::now(),
            telling: Telling::new(context, lane),
        }
    }

    /// Writes until something is wrong.
    ///
    /// # Errors
    /// Always: what was wrong. `Fork` starts a recovery; the others are tried again by starting over from the ledger's
    /// cursor.
    pub(super) async fn run(&mut self) -> Result<(), WriterError> {
        loop {
            let carrying = self.own.carry_next(self.cursor, &mut self.queue);
            // The lane is told of the last batch while the next one is written.
            let (carried, ()) = tokio::join!(carrying, self.telling.tell(self.cursor));
            match carried? {
                Some(Carried { entries, done, notice }) => {
                    self.cursor = done.cursor;
                    self.telling.note(self.cursor, &entries, &done, notice).await;
                }
                None => {
                    self.check_lane().await?;
                    self.telling.tell_missed(self.cursor).await?;
                }
            }
        }
    }

    /// Gives the connection back, once the read that is under way has ended.
    pub(super) fn close(self) {
        tokio::spawn(self.queue.close());
    }

    /// An idle lane must stand exactly at its cursor or after it; and so must, now and then, the ledger: one that fell
    /// back lacks entries that nothing else would carry to it again before the next one comes.
    async fn check_lane(&mut self) -> Result<(), WriterError> {
        let meta = self.own.context.flash.lane_meta(self.own.lane).await?;
        match meta {
            Some(meta) if meta.open && meta.epoch == self.cursor.epoch => {
                let behind = meta.seq < self.cursor.seq;
                let other = meta.seq == self.cursor.seq && meta.nonce != self.cursor.nonce;
                if behind || other {
                    let what = format!("the lane is at {}, the ledger at {}", meta.seq, self.cursor.seq);
                    return Err(self.own.fork(self.cursor, what).await);
                }
            }
            _ => return Err(self.own.fork(self.cursor, "the lane is closed or gone".into()).await),
        }
        if self.compared.elapsed() >= COMPARE_EVERY {
            if !self.own.is_current(self.cursor).await? {
                return Err(WriterError::NotOwner);
            }
            self.compared = Instant::now();
        }
        Ok(())
    }
}

impl Own<'_> {
    /// Writes what follows this cursor, with other lanes where that can be, while the queue is read further, else alone;
    /// and tells who waits here. `None`: nothing follows yet.
    async fn carry_next(self, from: Cursor, queue: &mut Ahead) -> Result<Option<Carried>, WriterError> {
        let raw = match queue.next().await {
            Ok(raw) => raw,
            Err(error) => {
                // Redis is away: whoever asks the lane next learns it too; here there is only waiting.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Err(error.into());
            }
        };
        if raw.is_empty() {
            return Ok(None);
        }
        let entries: Arc<[Entry]> = match decode(from, &raw) {
            Ok(entries) => entries.into(),
            Err(what) => return Err(self.fork(from, what).await),
        };
        let started = Instant::now();
        let together = tokio::select! {
            done = self.together.carry(self.lane, from, &entries) => done,
            never = queue.gather() => match never {},
        };
        let done = match together {
            Some(done) => done,
            None => self.apply(from, &entries).await?,
        };
        let notice = notice(self.context, &entries, &done);
        self.context.flash.tell_durable(self.lane, done.cursor, &notice);
        metrics::histogram!(metric::WRITER_FLUSH_SECONDS).record(started.elapsed());
        self.record(&entries, &done);
        Ok(Some(Carried { entries, done, notice }))
    }

    /// What the queue holds does not follow our cursor. Where the ledger stands at that very cursor, the lane has to be
    /// recovered; where it does not, another one writes, or the ledger fell back, and we start over from there.
    async fn fork(self, cursor: Cursor, what: String) -> WriterError {
        match self.is_current(cursor).await {
            Ok(true) => self.context.flash.fork_lane(self.lane, cursor.epoch),
            Ok(false) => self.context.flash.suspect_lane(self.lane, cursor.epoch),
            Err(error) => return error.into(),
        }
        WriterError::Fork(what)
    }

    /// Whether the ledger stands at this cursor, and we are the one to move it.
    async fn is_current(self, cursor: Cursor) -> Result<bool, LedgerError> {
        let row = self.context.ledger.lane(self.lane).await?;
        Ok(row.owner == Some(self.context.gateway) && row.cursor == cursor)
    }

    /// Applies a batch alone, going on through short failures of Postgres. An answer that was lost is no question: the cursor
    /// says whether the batch is durable.
    async fn apply(self, from: Cursor, entries: &[Entry]) -> Result<Done, WriterError> {
        let started = Instant::now();
        loop {
            let batch = Batch {
                lane: self.lane,
                owner: self.context.gateway,
                from,
                entries,
                id_key: self.context.flash.id_key(),
            };
            match self.context.ledger.apply(batch).await {
                Ok(Applied::Done(done)) => return Ok(done),
                Ok(Applied::NotOwner) => return self.already_durable(entries).await,
                Ok(Applied::GrantsAhead { ledger, lane }) => {
                    let what = format!("the lane has grants up to {lane}, the ledger up to {ledger}");
                    return Err(self.fork(from, what).await);
                }
                Ok(Applied::Poisoned { bad }) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Err(WriterError::Poisoned(bad));
                }
                Err(error @ (LedgerError::Unavailable(_) | LedgerError::Retry(_))) if started.elapsed() < STUBBORN => {
                    tracing::warn!(lane = %self.lane, %error, "a batch waits for postgres");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where the compare-and-set failed because an earlier attempt of ours had gone through, what came of it.
    async fn already_durable(self, entries: &[Entry]) -> Result<Done, WriterError> {
        let row = self.context.ledger.lane(self.lane).await?;
        let last = entries.last().map(|entry| (entry.epoch, entry.seq, entry.nonce));
        if row.owner != Some(self.context.gateway) || last != Some((row.cursor.epoch, row.cursor.seq, row.cursor.nonce))
        {
            return Err(WriterError::NotOwner);
        }
        let ids: Vec<ReservationId> = self.reservations(entries).map(|(_, id, _)| id).collect();
        let mut done = Done {
            cursor: row.cursor,
            reserved: ids.len(),
            refused: vec![],
            drift: vec![],
            grants_for: vec![self.lane],
            settled: self.context.ledger.settled_units(self.lane).await?,
        };
        for reservation in self.context.ledger.reservations(&ids).await? {
            if reservation.status == Status::Rejected {
                let place = reservation.id.place();
                let cause = reservation.cause.unwrap_or(Cause::Lost);
                let durability = Durability::Rejected {
                    cause,
                    first: reservation.first,
                };
                done.refused.push(Refused {
                    seq: place.seq,
                    index: place.index,
                    durability,
                });
            }
        }
        Ok(done)
    }

    fn reservations<'e>(
        &'e self,
        entries: &'e [Entry],
    ) -> impl Iterator<Item = (&'e Entry, ReservationId, &'e Accepted)> {
        entries.iter().flat_map(move |entry| {
            let slips = match &entry.body {
                Body::Reserve(slips) => slips.as_slice(),
                Body::Grant { .. } => &[],
            };
            slips.iter().zip(0u8..).filter_map(move |(slip, index)| {
                let place = Place::new(entry.epoch, entry.seq, index, entry.nonce);
                let id = self.context.flash.id_key().seal(self.lane, place);
                slip.as_ref().ok().map(|accepted| (entry, id, accepted))
            })
        })
    }

    fn record(&self, entries: &[Entry], done: &Done) {
        let rows = u32::try_from(done.reserved + done.refused.len()).unwrap_or(u32::MAX);
        metrics::histogram!(metric::WRITER_FLUSH_ROWS).record(rows);
        for refused in &done.refused {
            if let Durability::Rejected { cause, .. } = refused.durability {
                metrics::counter!(metric::RESERVATIONS_REJECTED, "cause" => cause.as_str()).increment(1);
                match cause {
                    Cause::Surplus => metrics::counter!(metric::OVERSELL_ATTEMPTS).increment(1),
                    Cause::Poison => metrics::counter!(metric::QUARANTINED).increment(1),
                    _ => {}
                }
            }
        }
        tell_altered_slips(self.lane, entries);
        for drift in &done.drift {
            tracing::error!(lane = %self.lane, sale_no = drift.sale_no, seq = drift.seq, expected = drift.expected,
                found = drift.found, "drift: redis and the ledger differ");
        }
        if tracing::enabled!(target: "flashgate::change", tracing::Level::INFO) {
            for (entry, id, accepted) in self.reservations(entries) {
                let refused = done
                    .refused
                    .iter()
                    .any(|r| (r.seq, r.index) == (entry.seq, id.place().index));
                tracing::info!(target: "flashgate::change", change = if refused { "rejected" } else { "reserved" },
                    trace = %accepted.slip.trace, order = accepted.slip.order, reservation = %id, lane = %self.lane,
                    sale_no = entry.touched[accepted.sale].sale_no, quantity = accepted.slip.quantity, operator = "client");
            }
        }
    }
}

/// Decodes entries that continue the cursor, one after the other.
/// Else, what is wrong.
fn decode(from: Cursor, raw: &[RawEntry]) -> Result<Vec<Entry>, String> {
    let (mut seq, mut nonce) = (from.seq, from.nonce);
    let mut entries = Vec::with_capacity(raw.len());
    for raw in raw {
        let entry = Entry::decode(raw).map_err(|e| format!("entry {}-{}: {e}", raw.id.0, raw.id.1))?;
        if entry.epoch != from.epoch || entry.seq != seq + 1 || entry.prev != nonce {
            return Err(format!("entry {:?} does not follow {}-{seq}", raw.id, from.epoch));
        }
        (seq, nonce) = (entry.seq, entry.nonce);
        entries.push(entry);
    }
    Ok(entries)
}

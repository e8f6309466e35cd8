//! Commit and release: a batch of endings in one transaction.
//!
//! Whatever races, a reservation ends once: its row is locked, the state machine is asked, and the answers follow the
//! order of the asks, several on one reservation included. An ending never waits for a lane: the units travel back in
//! a grant without a number.

mod keys;
mod record;

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

pub(super) use record::{Ended, record};

use self::keys::EndingKeys;
use super::reservation::{ReservationRow, lock};
use super::{Ledger, LedgerError};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::lane::LaneNo;
use crate::domain::reservation::{Ending, Reservation, Status, Transition, transition};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;
use crate::domain::trace::TraceId;

/// A request to end a reservation.
#[derive(Clone, Debug)]
pub struct EndAsk {
    /// Which.
    pub id: ReservationId,
    /// How: `Commit` or `Release`.
    pub ending: Ending,
    /// The payment of a commit, the reason of a release.
    pub detail: Option<String>,
    /// The key that the client chose, if it did.
    pub key: Option<(KeyHash, Fingerprint)>,
    /// Of the request.
    pub trace: TraceId,
    /// Who asks, where a person does.
    pub operator: Option<String>,
}

/// A grant that carries the units of an ending back to their lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantTicket {
    /// Of the grant.
    pub grant_id: i64,
    /// Where it goes.
    pub lane: LaneNo,
}

/// What came of an [`EndAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndAnswer {
    /// It has ended so, now or before; a release also finds it `EXPIRED`.
    Done {
        /// As it stands.
        reservation: Reservation,
        /// Of the commit that counted.
        payment_id: Option<String>,
        /// The units are usable again once this is delivered; none: nothing is on its way.
        ticket: Option<GrantTicket>,
        /// The same was asked before.
        replayed: bool,
    },
    /// Another ending came first, or the ledger had refused it.
    Refused(Reservation),
    /// Its sale is frozen.
    Frozen,
    /// The key belongs to another request.
    KeyReused,
    /// The ledger does not have it.
    Unknown,
}

/// What was decided on an ask, before the rows are written.
enum Verdict {
    Done { replayed: bool },
    Refused,
    Frozen,
    KeyReused,
    Unknown,
}

impl Ledger {
    /// Ends these reservations; the answers stand in the order of the asks.
    ///
    /// # Errors
    /// Postgres could not be asked, or refused what is in one of the asks: then none of them has happened.
    pub async fn end(&self, asks: &[EndAsk]) -> Result<Vec<EndAnswer>, LedgerError> {
        let mut attempt = 0;
        loop {
            match self.end_once(asks).await {
                Err(error) => {
                    attempt += 1;
                    self.before_retry(error, attempt).await?;
                }
                done => return done,
            }
        }
    }

    async fn end_once(&self, asks: &[EndAsk]) -> Result<Vec<EndAnswer>, LedgerError> {
        let mut tx = self.begin().await?;
        let mut rows = lock(&mut tx, asks.iter().map(|ask| ask.id)).await?;
        let mut keys = EndingKeys::take(&mut tx, asks).await?;
        let mut ended = Vec::new();
        let mut verdicts = Vec::with_capacity(asks.len());
        for ask in asks {
            let verdict = decide(ask, &mut rows, &keys, &mut ended)?;
            if matches!(verdict, Verdict::Done { .. }) {
                keys.claim(ask);
            }
            verdicts.push(verdict);
        }
        keys.settle(&mut tx).await?;
        let mut tickets = HashMap::new();
        if !ended.is_empty() {
            let recorded = record(&mut tx, &ended).await?;
            for e in &ended {
                let row = rows.get_mut(&e.row.reservation_id);
                row.expect("what ended was locked").updated_at = recorded.updated_at;
            }
            tickets.extend(recorded.given.iter().map(|given| {
                let (grant_id, lane) = (given.grant_id, given.lane);
                (given.reservation, GrantTicket { grant_id, lane })
            }));
        }
        let before = outstanding(&mut tx, asks, &verdicts, &rows, &tickets).await?;
        tickets.extend(before);
        tx.commit().await?;
        ended.iter().for_each(Ended::log);
        let answer = |(ask, verdict): (&EndAsk, Verdict)| answer(verdict, rows.get(&ask.id.0), &tickets);
        asks.iter().zip(verdicts).map(answer).collect()
    }
}

fn decide(
    ask: &EndAsk,
    rows: &mut HashMap<Uuid, ReservationRow>,
    keys: &EndingKeys,
    ended: &mut Vec<Ended>,
) -> Result<Verdict, LedgerError> {
    let owner = keys.owner(ask);
    if owner.is_some_and(|owner| !owner.made(ask)) {
        return Ok(Verdict::KeyReused);
    }
    let Some(row) = rows.get_mut(&ask.id.0) else {
        return Ok(Verdict::Unknown);
    };
    if owner.is_some() {
        return Ok(Verdict::Done { replayed: true });
    }
    match transition(row.status()?, ask.ending) {
        Transition::Ends(Status::Committed) if row.sale_state()? == Some(SaleState::Frozen) => Ok(Verdict::Frozen),
        Transition::Ends(status) => {
            row.set_status(status);
            if status == Status::Committed {
                row.payment_id.clone_from(&ask.detail);
            }
            ended.push(Ended {
                row: row.clone(),
                status,
                detail: ask.detail.clone(),
                trace: ask.trace,
                operator: ask.operator.clone(),
            });
            Ok(Verdict::Done { replayed: false })
        }
        // A release that finds it expired was not asked before.
        Transition::Already(status) => Ok(Verdict::Done {
            replayed: status != Status::Expired,
        }),
        Transition::Refused(_) => Ok(Verdict::Refused),
    }
}

/// The grants still on their way of reservations that had ended before: their repeated release waits for them too.
async fn outstanding(
    tx: &mut PgConnection,
    asks: &[EndAsk],
    verdicts: &[Verdict],
    rows: &HashMap<Uuid, ReservationRow>,
    fresh: &HashMap<Uuid, GrantTicket>,
) -> Result<Vec<(Uuid, GrantTicket)>, LedgerError> {
    let mut ids = Vec::new();
    let mut lanes = Vec::new();
    for (ask, verdict) in asks.iter().zip(verdicts) {
        let released = ask.ending == Ending::Release && matches!(verdict, Verdict::Done { .. });
        let before = released && !fresh.contains_key(&ask.id.0);
        if let Some(lane) = rows.get(&ask.id.0).and_then(|row| row.lane).filter(|_| before) {
            ids.push(ask.id.0);
            lanes.push(lane);
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let left: Vec<(Uuid, i64, i16)> = sqlx::query_as(
        "-- grant.of_ended: by lane, which is indexed
         SELECT g.reservation_id, g.grant_id, g.lane FROM lane_grant g
         JOIN UNNEST($1::uuid[], $2::int2[]) AS e(reservation_id, lane) USING (lane, reservation_id)
         WHERE g.kind = 'end'",
    )
    .bind(ids)
    .bind(lanes)
    .fetch_all(&mut *tx)
    .await?;
    let ticket = |(id, grant_id, lane)| {
        let lane = LaneNo::from_i16(lane);
        (id, GrantTicket { grant_id, lane })
    };
    Ok(left.into_iter().map(ticket).collect())
}

fn answer(
    verdict: Verdict,
    row: Option<&ReservationRow>,
    tickets: &HashMap<Uuid, GrantTicket>,
) -> Result<EndAnswer, LedgerError> {
    let Some(row) = row else {
        return Ok(match verdict {
            Verdict::KeyReused => EndAnswer::KeyReused,
            _ => EndAnswer::Unknown,
        });
    };
    Ok(match verdict {
        Verdict::Done { replayed } => EndAnswer::Done {
            reservation: row.to_reservation()?,
            payment_id: row.payment_id.clone(),
            ticket: tickets.get(&row.reservation_id).copied(),
            replayed,
        },
        Verdict::Refused => EndAnswer::Refused(row.to_reservation()?),
        Verdict::Frozen => EndAnswer::Frozen,
        Verdict::KeyReused => EndAnswer::KeyReused,
        Verdict::Unknown => EndAnswer::Unknown,
    })
}

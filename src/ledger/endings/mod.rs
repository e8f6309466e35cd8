//! Commit and release: a batch of endings in one transaction.
//!
//! Whatever races, a reservation ends once: its row is locked, the state machine is asked, and the answers follow the
//! order of the asks, several on one reservation included. An ending never waits for a lane: the units travel back in
//! a grant without a number.

mod keys;
mod record;

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

pub(super) use record::{Ended, record};

use self::keys::EndingKeys;
use super::newer_sale::NewerSales;
use super::reservation::{Locked, lock};
use super::take::rescue;
use super::{Ledger, LedgerError};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::lane::LaneNo;
use crate::domain::reservation::{Ending, Reservation, Status, Transition, transition};
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::domain::sale::SaleState;
use crate::domain::trace::TraceId;
use crate::ledger::connection::Connection;

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
    /// Refused where it is a part of a cart: of somebody who holds it to make one.
    pub unless_in_cart: bool,
    /// Of a commit that comes late: newer sales of its items give it units. They were [called back](Ledger::call_back).
    pub from_newer_sales: bool,
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
        /// The units are usable again once these are delivered; none: nothing is on its way.
        tickets: Vec<GrantTicket>,
        /// The same was asked before.
        replayed: bool,
        /// It was sold after it had expired, its units taken anew: by this ask, or one before.
        rescued: bool,
    },
    /// Another ending came first, or the ledger had refused it.
    Refused(Reservation),
    /// A commit of what has expired: its items are on newer sales by now, which have not given enough units. Call them
    /// [back](Ledger::call_back), and ask again.
    Short(Reservation),
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
    Short,
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
        let given: Vec<Uuid> = asks.iter().filter(|a| a.from_newer_sales).map(|a| a.id.0).collect();
        let newer = NewerSales::lock(&mut tx, &given).await?;
        let mut rows = lock(&mut tx, asks.iter().map(|ask| ask.id)).await?;
        let mut keys = EndingKeys::take(&mut tx, asks).await?;
        let late = late(asks, &rows, &keys)?;
        let short = rescue(&mut tx, &mut rows, late, newer).await?;
        let mut ended = Vec::new();
        let mut verdicts = Vec::with_capacity(asks.len());
        for ask in asks {
            let verdict = decide(ask, &mut rows, &keys, &short, &mut ended)?;
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
                rows.get_mut(&e.row.reservation_id).updated_at = recorded.updated_at;
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
        let answer = |(ask, verdict): (&EndAsk, Verdict)| answer(ask.id, verdict, &rows, &tickets);
        asks.iter().zip(verdicts).map(answer).collect()
    }
}

/// The reservations that somebody paid for after they had expired; also carts that lanes have taken anew, whose own key is
/// still to be claimed. None whose commit is to be refused all the same: what is taken anew stays taken.
fn late<'a>(asks: &'a [EndAsk], rows: &Locked, keys: &EndingKeys) -> Result<Vec<&'a EndAsk>, LedgerError> {
    let (mut late, mut named, mut with_key) = (Vec::new(), HashSet::new(), HashSet::new());
    for ask in asks {
        let owner = keys.owner(ask);
        // Whoever sends another's key ends nothing.
        if owner.is_some_and(|owner| !owner.made(ask)) {
            continue;
        }
        let parts = rows.rows_of(ask.id.0);
        let is_named_first = parts.first().is_none_or(|part| named.insert(*part));
        let has_key_first = ask.key.is_none_or(|(key, _)| with_key.insert(key));
        if ask.ending != Ending::Commit || owner.is_some() || !is_named_first || !has_key_first {
            continue;
        }
        let Some(found) = rows.whole(ask.id.0)? else { continue };
        let in_lanes = || parts.iter().any(|part| rows.get(part).rescued_at.is_some());
        let is_cart = found.id.kind() == Some(Kind::Cart);
        let is_late = found.status == Status::Expired || found.status == Status::Reserved && is_cart && in_lanes();
        if is_late && !is_frozen(&parts, rows)? {
            late.push(ask);
        }
    }
    Ok(late)
}

/// Whether a sale that one of these rows was made in is frozen.
fn is_frozen(parts: &[Uuid], rows: &Locked) -> Result<bool, LedgerError> {
    for part in parts {
        if rows.get(part).sale_state()? == Some(SaleState::Frozen) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn decide(
    ask: &EndAsk,
    rows: &mut Locked,
    keys: &EndingKeys,
    short: &HashSet<Uuid>,
    ended: &mut Vec<Ended>,
) -> Result<Verdict, LedgerError> {
    let owner = keys.owner(ask);
    if owner.is_some_and(|owner| !owner.made(ask)) {
        return Ok(Verdict::KeyReused);
    }
    let parts = rows.rows_of(ask.id.0);
    let Some(first) = parts.first().map(|part| rows.get(part)) else {
        return Ok(Verdict::Unknown);
    };
    if ask.unless_in_cart && first.cart_id.is_some() {
        return Ok(Verdict::Refused);
    }
    if owner.is_some() {
        return Ok(Verdict::Done { replayed: true });
    }
    // A cart of which a late payment holds only some parts is expired all the same.
    let Some(standing) = rows.whole(ask.id.0)?.map(|whole| whole.status) else {
        return Ok(Verdict::Unknown);
    };
    let status = match transition(standing, ask.ending) {
        Transition::Ends(status) => status,
        // A release that finds it expired was not asked before.
        Transition::Already(status) => {
            return Ok(Verdict::Done {
                replayed: status != Status::Expired,
            });
        }
        Transition::Refused(_) if ask.ending == Ending::Commit && parts.iter().any(|part| short.contains(part)) => {
            return Ok(Verdict::Short);
        }
        // Whether it can have units again is known when the sale sells again.
        Transition::Refused(Status::Expired) if ask.ending == Ending::Commit && is_frozen(&parts, rows)? => {
            return Ok(Verdict::Frozen);
        }
        Transition::Refused(_) => return Ok(Verdict::Refused),
    };
    if status == Status::Committed && is_frozen(&parts, rows)? {
        return Ok(Verdict::Frozen);
    }
    for part in &parts {
        let row = rows.get_mut(part);
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
    }
    Ok(Verdict::Done { replayed: false })
}

/// The grants still on their way of reservations that had ended before: their repeated release waits for them too.
async fn outstanding(
    tx: &mut Connection,
    asks: &[EndAsk],
    verdicts: &[Verdict],
    rows: &Locked,
    fresh: &HashMap<Uuid, GrantTicket>,
) -> Result<Vec<(Uuid, GrantTicket)>, LedgerError> {
    let mut ids = Vec::new();
    let mut lanes = Vec::new();
    for (ask, verdict) in asks.iter().zip(verdicts) {
        let released = ask.ending == Ending::Release && matches!(verdict, Verdict::Done { .. });
        for part in rows.rows_of(ask.id.0).into_iter().filter(|_| released) {
            if let Some(lane) = rows.get(&part).lane.filter(|_| !fresh.contains_key(&part)) {
                ids.push(part);
                lanes.push(lane);
            }
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
    id: ReservationId,
    verdict: Verdict,
    rows: &Locked,
    tickets: &HashMap<Uuid, GrantTicket>,
) -> Result<EndAnswer, LedgerError> {
    let Some(reservation) = rows.whole(id.0)? else {
        return Ok(match verdict {
            Verdict::KeyReused => EndAnswer::KeyReused,
            _ => EndAnswer::Unknown,
        });
    };
    let parts = rows.rows_of(id.0);
    Ok(match verdict {
        Verdict::Done { replayed } => EndAnswer::Done {
            payment_id: parts.first().and_then(|part| rows.get(part).payment_id.clone()),
            tickets: parts.iter().filter_map(|part| tickets.get(part).copied()).collect(),
            replayed,
            rescued: reservation.status == Status::Committed
                && parts.iter().any(|part| rows.get(part).rescued_at.is_some()),
            reservation,
        },
        Verdict::Refused => EndAnswer::Refused(reservation),
        Verdict::Short => EndAnswer::Short(reservation),
        Verdict::Frozen => EndAnswer::Frozen,
        Verdict::KeyReused => EndAnswer::KeyReused,
        Verdict::Unknown => EndAnswer::Unknown,
    })
}

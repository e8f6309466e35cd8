//! Returns: units of a committed reservation that come back, in as many steps as they take.
//!
//! A return is one transaction: its units enter the balance of the place that sold them, sellable or damaged, with an
//! event, and its rows remember the answer for ever. So the id that the client gave it is its key. Never do more units
//! come back than were committed: who returns holds the balances of the lines, hot or cold, while it adds up what came
//! back before.

mod row;

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use self::row::{Out, insert_lines, read, still_out};
use super::once::{By, Claim, Key, claim};
use super::post::{Deltas, EventType, Movement, post};
use super::reservation::lock;
use super::retry::retried;
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, ReturnId};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reservation::{Line, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

/// What inspection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Can be sold again.
    Sellable,
    /// There, but not for sale.
    Damaged,
}

impl Condition {
    /// The word in requests, rows and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Sellable => "sellable",
            Condition::Damaged => "damaged",
        }
    }

    fn deltas(self, units: i64) -> Deltas {
        let broken = if self == Condition::Damaged { units } else { 0 };
        Deltas {
            on_hand: units,
            unavailable: broken,
            damaged: broken,
            returned: units,
            ..Deltas::default()
        }
    }
}

/// Which units come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReturnUnits {
    /// All that are still out.
    All,
    /// So many of a reservation of one line.
    Of(i64),
    /// These; each item once.
    Lines(Vec<Line>),
}

/// A return as asked for.
#[derive(Clone, Debug)]
pub struct ReturnAsk {
    /// The client's name for it.
    pub id: ReturnId,
    /// Whose units.
    pub reservation: ReservationId,
    /// Which.
    pub units: ReturnUnits,
    /// How they are.
    pub condition: Condition,
    /// In the client's words.
    pub reason: Option<String>,
    /// The client's key, where one was sent beside the id.
    pub key: Option<KeyHash>,
}

/// A return as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The client's name for it.
    pub id: ReturnId,
    /// Whose units.
    pub reservation: ReservationId,
    /// What came back, in the order of the items.
    pub lines: Vec<Line>,
    /// How it was.
    pub condition: Condition,
    /// Units of the reservation that could still come back after it.
    pub returnable: i64,
    /// When.
    pub created_at: Millis,
}

/// A line of which more would come back than is still out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// What was asked for.
    pub line: Line,
    /// Units of it that are still out.
    pub returnable: i64,
}

/// What came of a return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReturnAnswer {
    /// Done now.
    Done(Returned),
    /// Done before; this was the answer.
    Replayed(Returned),
    /// The id or the key belongs to another return.
    Reused,
    /// The ledger has no such reservation.
    Unknown,
    /// Nothing was sold: it stands like this.
    NotCommitted(Status),
    /// A number of units alone says nothing of a reservation of several lines.
    ManyLines,
    /// More than is still out.
    Exceeds {
        /// Units of the reservation that can still come back.
        returnable: i64,
        /// The lines that ask for too much; none where nothing at all is out.
        lines: Vec<Excess>,
    },
}

impl Ledger {
    /// Takes units back, once.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn give_back(&self, ask: &ReturnAsk, by: &By) -> Result<ReturnAnswer, LedgerError> {
        let answer = retried!(self, self.give_back_once(ask, by));
        match answer {
            // Another return of this id was first, for another reservation or key; its answer stands by now.
            Err(error) if error.is_constraint("inventory_return_pkey") => self.give_back_once(ask, by).await,
            answer => answer,
        }
    }

    async fn give_back_once(&self, ask: &ReturnAsk, by: &By) -> Result<ReturnAnswer, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(known) = read(&mut tx, ask).await? {
            return Ok(known);
        }
        // Another return's key is told whatever became of the reservation; a refused return keeps none.
        if let Some(key) = ask.key()
            && claim(&mut tx, &key, false, ask.subject()).await? != Claim::New
        {
            return Ok(ReturnAnswer::Reused);
        }
        let locked = lock(&mut tx, std::iter::once(ask.reservation)).await?;
        let rows = locked.rows_of(ask.reservation.0);
        let Some(first) = rows.first().map(|row| locked.get(row)) else {
            return Ok(ReturnAnswer::Unknown);
        };
        if first.status()? != Status::Committed {
            return Ok(ReturnAnswer::NotCommitted(first.status()?));
        }
        let (reservation, order) = (ReservationId(first.public_id()), first.order_id.clone());
        let out = still_out(&mut tx, &locked, &rows).await?;
        // Whoever returned the same under this id at the same time has committed, and it shows by now.
        if let Some(known) = read(&mut tx, ask).await? {
            return Ok(known);
        }
        let wanted = match ask.choose(&out) {
            Ok(wanted) => wanted,
            Err(refused) => return Ok(refused),
        };
        let left: i64 = out.iter().map(|out| out.left).sum();
        let back: i64 = wanted.iter().map(|(_, line)| line.quantity).sum();
        let movements: Vec<Movement> = wanted
            .iter()
            .map(|(row, line)| ask.movement(*row, line, &order, by))
            .collect();
        let posted = post(&mut tx, &movements).await?;
        let created_at = ask.insert(&mut tx, reservation, &order, left - back, by).await?;
        let events: Vec<i64> = posted.iter().map(|posted| posted.event_id).collect();
        insert_lines(&mut tx, &ask.id, &wanted, &events).await?;
        tx.commit().await?;
        Ok(ReturnAnswer::Done(Returned {
            id: ask.id.clone(),
            reservation,
            lines: wanted.into_iter().map(|(_, line)| line).collect(),
            condition: ask.condition,
            returnable: left - back,
            created_at,
        }))
    }
}

impl ReturnAsk {
    /// What the client sent, but for its id and key.
    fn fingerprint(&self) -> Fingerprint {
        let units = match &self.units {
            ReturnUnits::All => String::new(),
            ReturnUnits::Of(units) => units.to_string(),
            ReturnUnits::Lines(lines) => {
                let word = |line: &Line| format!("{}\n{}\n{}", line.item.sku, line.item.location, line.quantity);
                let mut words: Vec<String> = lines.iter().map(word).collect();
                words.sort_unstable();
                words.join("\n\n")
            }
        };
        let reason = self.reason.as_deref().unwrap_or_default();
        Fingerprint::of(&[&self.reservation.to_string(), &units, self.condition.as_str(), reason])
    }

    /// The return as a key's subject: the same for every request of its id, so that only another one's key is strange.
    fn subject(&self) -> Uuid {
        KeyHash::explicit("return by id", self.id.as_str()).to_uuid()
    }

    fn key(&self) -> Option<Key> {
        let fingerprint = self.fingerprint();
        self.key.map(|hash| Key { hash, fingerprint })
    }

    /// The units to take back, by row, in the order of the items.
    fn choose(&self, out: &[Out]) -> Result<Vec<(Uuid, Line)>, ReturnAnswer> {
        let returnable: i64 = out.iter().map(|out| out.left).sum();
        let exceeds = |lines| Err(ReturnAnswer::Exceeds { returnable, lines });
        let line = |out: &Out, quantity| Line {
            item: out.item.clone(),
            quantity,
        };
        let wanted: BTreeMap<Item, i64> = match &self.units {
            ReturnUnits::All => out.iter().map(|out| (out.item.clone(), out.left)).collect(),
            ReturnUnits::Of(units) => match out {
                [only] => BTreeMap::from([(only.item.clone(), *units)]),
                _ => return Err(ReturnAnswer::ManyLines),
            },
            ReturnUnits::Lines(lines) => lines.iter().map(|l| (l.item.clone(), l.quantity)).collect(),
        };
        let left: HashMap<&Item, &Out> = out.iter().map(|out| (&out.item, out)).collect();
        let excess: Vec<Excess> = wanted
            .iter()
            .map(|(item, quantity)| Excess {
                line: Line {
                    item: item.clone(),
                    quantity: *quantity,
                },
                returnable: left.get(item).map_or(0, |out| out.left),
            })
            .filter(|excess| excess.line.quantity > excess.returnable)
            .collect();
        if !excess.is_empty() || wanted.values().all(|units| *units == 0) {
            return exceeds(excess);
        }
        let pick = |(item, units): (&Item, &i64)| left.get(item).map(|out| (out.row, line(out, *units)));
        Ok(wanted
            .iter()
            .filter(|(_, units)| **units > 0)
            .filter_map(pick)
            .collect())
    }

    fn movement(&self, row: Uuid, line: &Line, order: &str, by: &By) -> Movement {
        Movement {
            item: line.item.clone(),
            event: EventType::Returned,
            quantity_delta: line.quantity,
            deltas: self.condition.deltas(line.quantity),
            reason: Some(format!("return_{}", self.condition.as_str())),
            reference_id: Some(self.id.to_string()),
            reservation_id: Some(row),
            order_id: Some(order.to_owned()),
            operator: by.operator.clone(),
            trace_id: by.trace.map(|trace| trace.to_uuid()),
            metadata: self.reason.as_ref().map(|reason| serde_json::json!({"reason": reason})),
        }
    }
}

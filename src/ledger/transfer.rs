//! Transfers: units of a SKU that go from one location to another.
//!
//! Both sides move in one transaction, with an event at each, and its row remembers the answer for ever. That is also
//! the compensation: where the receiving side can't take the units (it is unknown, or closed), the debit of the sending
//! side is undone with everything else, at once and by Postgres, and no units are ever on neither side. Nothing of a
//! refused transfer is kept, so the same one may be asked for again when the receiving side can take it.

use sqlx::types::Json;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::balance::{ensure_balance, lock_balance, lock_balances, sku_is_known};
use super::connection::Connection;
use super::once::{By, Claim, Key, claim};
use super::post::{Deltas, EventType, Movement, Posted, post};
use super::retry::retried;
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::{Item, LocationId, Sku, TransferId};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::time::Millis;

/// A transfer as asked for; the two locations differ.
#[derive(Clone, Debug)]
pub struct TransferAsk {
    /// The client's name for it.
    pub id: TransferId,
    /// What.
    pub sku: Sku,
    /// Whence.
    pub from: LocationId,
    /// Whither.
    pub to: LocationId,
    /// Units.
    pub quantity: i64,
    /// The client's key, where one was sent beside the id.
    pub key: Option<KeyHash>,
}

/// One side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Side {
    /// The balance before it.
    pub before: Balance,
    /// The balance after it.
    pub after: Balance,
}

/// Both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sides {
    /// The sending one.
    pub from: Side,
    /// The receiving one.
    pub to: Side,
}

/// A transfer as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Of the sending side's event.
    pub from_event: i64,
    /// Of the receiving side's event.
    pub to_event: i64,
    /// What it did.
    pub sides: Sides,
    /// When.
    pub created_at: Millis,
}

/// What came of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// Done now.
    Done(Transfer),
    /// Done before; this was the answer.
    Replayed(Transfer),
    /// The id or the key belongs to another transfer.
    Reused,
    /// No such SKU.
    UnknownSku,
    /// No such location.
    UnknownLocation(LocationId),
    /// The receiving location is closed.
    Closed,
    /// The sending side has too few units that are free.
    Insufficient(Balance),
}

#[derive(sqlx::FromRow)]
struct TransferRow {
    sku_id: String,
    from_location: String,
    to_location: String,
    quantity: i64,
    from_event: i64,
    to_event: i64,
    images: Json<Sides>,
    created_at: DateTime<Utc>,
}

impl Ledger {
    /// Moves units from one location to another, once.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn transfer(&self, ask: &TransferAsk, by: &By) -> Result<Transferred, LedgerError> {
        let answer = retried!(self, self.transfer_once(ask, by));
        match answer {
            // Another transfer of this id was first, of other balances; its answer stands by now.
            Err(error) if error.is_constraint("transfer_pkey") => self.transfer_once(ask, by).await,
            answer => answer,
        }
    }

    async fn transfer_once(&self, ask: &TransferAsk, by: &By) -> Result<Transferred, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(known) = read(&mut tx, ask).await? {
            return Ok(known);
        }
        if let Some(key) = ask.key()
            && claim(&mut tx, &key, false, ask.subject()).await? != Claim::New
        {
            return Ok(Transferred::Reused);
        }
        if !sku_is_known(&mut tx, &ask.sku).await? {
            return Ok(Transferred::UnknownSku);
        }
        if location(&mut tx, &ask.from).await?.is_none() {
            return Ok(Transferred::UnknownLocation(ask.from.clone()));
        }
        match location(&mut tx, &ask.to).await? {
            None => return Ok(Transferred::UnknownLocation(ask.to.clone())),
            Some(false) => return Ok(Transferred::Closed),
            Some(true) => {}
        }
        let (from, to) = (ask.item(&ask.from), ask.item(&ask.to));
        let mut items = [&from, &to];
        items.sort_unstable();
        for item in items {
            ensure_balance(&mut tx, item, by).await?;
        }
        lock_balances(&mut tx, items.into_iter()).await?;
        // Whoever did the same under this id at the same time has committed, and it shows by now.
        if let Some(known) = read(&mut tx, ask).await? {
            return Ok(known);
        }
        let found = lock_balance(&mut tx, &from).await?;
        if ask.quantity > found.free() {
            return Ok(Transferred::Insufficient(found));
        }
        let movements = [
            ask.movement(from, -ask.quantity, by),
            ask.movement(to, ask.quantity, by),
        ];
        let posted = post(&mut tx, &movements).await?;
        let transfer = ask.insert(&mut tx, posted[0], posted[1], by).await?;
        tx.commit().await?;
        Ok(Transferred::Done(transfer))
    }
}

impl TransferAsk {
    fn item(&self, location: &LocationId) -> Item {
        Item {
            sku: self.sku.clone(),
            location: location.clone(),
        }
    }

    /// The transfer as a key's subject: the same for every request of its id.
    fn subject(&self) -> Uuid {
        KeyHash::explicit("transfer by id", self.id.as_str()).to_uuid()
    }

    fn key(&self) -> Option<Key> {
        let units = self.quantity.to_string();
        let fingerprint = Fingerprint::of(&[self.sku.as_str(), self.from.as_str(), self.to.as_str(), &units]);
        self.key.map(|hash| Key { hash, fingerprint })
    }

    fn movement(&self, item: Item, units: i64, by: &By) -> Movement {
        Movement {
            item,
            event: EventType::Transferred,
            quantity_delta: units,
            deltas: Deltas {
                on_hand: units,
                ..Deltas::default()
            },
            reason: Some("transfer".to_owned()),
            reference_id: Some(self.id.to_string()),
            reservation_id: None,
            order_id: None,
            operator: by.operator.clone(),
            trace_id: by.trace.map(|trace| trace.to_uuid()),
            metadata: None,
        }
    }

    async fn insert(&self, tx: &mut Connection, from: Posted, to: Posted, by: &By) -> Result<Transfer, LedgerError> {
        let side = |posted: Posted| Side {
            before: posted.before,
            after: posted.after,
        };
        let sides = Sides {
            from: side(from),
            to: side(to),
        };
        let created_at: DateTime<Utc> = sqlx::query_scalar(
            "-- transfer.insert
             INSERT INTO transfer (transfer_id, sku_id, from_location, to_location, quantity, from_event, to_event,
                 images, operator)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING created_at",
        )
        .bind(self.id.as_str())
        .bind(self.sku.as_str())
        .bind(self.from.as_str())
        .bind(self.to.as_str())
        .bind(self.quantity)
        .bind(from.event_id)
        .bind(to.event_id)
        .bind(Json(sides))
        .bind(by.operator.as_deref().unwrap_or_default())
        .fetch_one(tx)
        .await?;
        Ok(Transfer {
            from_event: from.event_id,
            to_event: to.event_id,
            sides,
            created_at: created_at.into(),
        })
    }
}

/// The transfer of this id, where there is one.
async fn read(tx: &mut Connection, ask: &TransferAsk) -> Result<Option<Transferred>, LedgerError> {
    let row: Option<TransferRow> = sqlx::query_as(
        "-- transfer.read
         SELECT sku_id, from_location, to_location, quantity, from_event, to_event, images, created_at FROM transfer
         WHERE transfer_id = $1",
    )
    .bind(ask.id.as_str())
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let same = row.sku_id == ask.sku.as_str()
        && row.from_location == ask.from.as_str()
        && row.to_location == ask.to.as_str()
        && row.quantity == ask.quantity;
    Ok(Some(if same {
        Transferred::Replayed(Transfer {
            from_event: row.from_event,
            to_event: row.to_event,
            sides: row.images.0,
            created_at: row.created_at.into(),
        })
    } else {
        Transferred::Reused
    }))
}

/// Whether the location is open, where it is known; it stays so until the transaction ends.
async fn location(tx: &mut Connection, id: &LocationId) -> Result<Option<bool>, LedgerError> {
    Ok(
        sqlx::query_scalar("-- location.is_open\nSELECT active FROM location WHERE location_id = $1 FOR SHARE")
            .bind(id.as_str())
            .fetch_optional(tx)
            .await?,
    )
}

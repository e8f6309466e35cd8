//! Reservations already in the ledger that delivered grants speak of, locked until we commit.

use std::collections::HashMap;

use uuid::Uuid;

use crate::domain::id::Item;
use crate::domain::key::KeyHash;
use crate::domain::reservation::Status;
use crate::ledger::LedgerError;
use crate::ledger::claims::Claimant;
use crate::ledger::connection::Connection;
use crate::ledger::sale_row::read_item;

/// A reservation that a grant ends or takes anew.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) id: Uuid,
    pub(super) order: String,
    pub(super) user: Option<String>,
    pub(super) item: Item,
    pub(super) quantity: i64,
    pub(super) status: Status,
    pub(super) key: KeyHash,
    pub(super) fingerprint: i64,
    pub(super) explicit: bool,
    pub(super) trace: Uuid,
}

#[derive(sqlx::FromRow)]
struct Row {
    reservation_id: Uuid,
    order_id: String,
    user_id: Option<String>,
    sku_id: String,
    location_id: String,
    quantity: i64,
    status: String,
    key_hash: Uuid,
    fingerprint: i64,
    explicit_key: bool,
    trace_id: Uuid,
}

/// The order's line, under both hashes that it may have: with the location, and as sent without.
pub(super) fn lines(order: &str, item: &Item) -> [KeyHash; 2] {
    let (sku, location) = (item.sku.as_str(), item.location.as_str());
    [
        KeyHash::order_line(order, sku, location),
        KeyHash::order_line(order, sku, ""),
    ]
}

impl Subject {
    /// Reads and locks these reservations, as far as they are in the hot tier.
    pub(super) async fn read(tx: &mut Connection, mut ids: Vec<Uuid>) -> Result<HashMap<Uuid, Subject>, LedgerError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        ids.sort_unstable();
        let rows: Vec<Row> = sqlx::query_as(
            "-- apply.subjects
             SELECT reservation_id, order_id, user_id, sku_id, location_id, quantity, status::text AS status, key_hash,
                 fingerprint, explicit_key, trace_id
             FROM inventory_reservation WHERE reservation_id = ANY($1) ORDER BY reservation_id FOR NO KEY UPDATE",
        )
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?;
        let read = |row: Row| {
            let status = Status::parse(&row.status)
                .ok_or_else(|| LedgerError::Broken(format!("reservation status {}", row.status)))?;
            let subject = Subject {
                id: row.reservation_id,
                item: read_item(&row.sku_id, &row.location_id)?,
                order: row.order_id,
                user: row.user_id,
                quantity: row.quantity,
                status,
                key: KeyHash::from_uuid(row.key_hash),
                fingerprint: row.fingerprint,
                explicit: row.explicit_key,
                trace: row.trace_id,
            };
            Ok((subject.id, subject))
        };
        rows.into_iter().map(read).collect()
    }

    /// It was refused, or its time was over, so it may be taken anew.
    pub(super) fn retakable(&self) -> bool {
        matches!(self.status, Status::Rejected | Status::Expired)
    }

    /// What it claims when it is taken anew.
    pub(super) fn claimant(&self) -> Claimant {
        Claimant {
            id: self.id,
            key: self.key,
            line: lines(&self.order, &self.item)[0],
            fingerprint: self.fingerprint,
            explicit: self.explicit,
        }
    }
}

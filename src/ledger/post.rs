//! Posting: the one way a balance changes, with the event that says so in the same transaction.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::LedgerError;
use crate::domain::balance::Balance;
use crate::domain::id::Item;

/// What a movement is called in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub enum EventType {
    /// Stock came in.
    #[serde(rename = "inventory_received")]
    Received,
    /// A reservation became durable.
    #[serde(rename = "inventory_reserved")]
    Reserved,
    /// It was sold.
    #[serde(rename = "inventory_committed")]
    Committed,
    /// It was given back.
    #[serde(rename = "inventory_released")]
    Released,
    /// Its time was over.
    #[serde(rename = "inventory_expired")]
    Expired,
    /// A balance was adjusted, or units moved in or out of escrow.
    #[serde(rename = "inventory_adjusted")]
    Adjusted,
    /// Units were damaged.
    #[serde(rename = "inventory_damaged")]
    Damaged,
    /// Units came back from a customer.
    #[serde(rename = "inventory_returned")]
    Returned,
    /// Units went from one location to another: one event at each.
    #[serde(rename = "inventory_transferred")]
    Transferred,
}

impl EventType {
    /// The word in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Received => "inventory_received",
            EventType::Reserved => "inventory_reserved",
            EventType::Committed => "inventory_committed",
            EventType::Released => "inventory_released",
            EventType::Expired => "inventory_expired",
            EventType::Adjusted => "inventory_adjusted",
            EventType::Damaged => "inventory_damaged",
            EventType::Returned => "inventory_returned",
            EventType::Transferred => "inventory_transferred",
        }
    }

    /// There is one with every reservation; of the others a person or a sale's owner makes each.
    #[must_use]
    pub fn is_frequent(self) -> bool {
        matches!(
            self,
            EventType::Reserved | EventType::Committed | EventType::Released | EventType::Expired
        )
    }
}

/// Changes of one balance, in units; names as in [`Balance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of Balance, which documents them")]
pub struct Deltas {
    pub on_hand: i64,
    pub reserved: i64,
    pub unavailable: i64,
    pub escrowed: i64,
    pub sold: i64,
    pub damaged: i64,
    pub returned: i64,
}

impl Deltas {
    fn add(&mut self, other: &Deltas) {
        self.on_hand += other.on_hand;
        self.reserved += other.reserved;
        self.unavailable += other.unavailable;
        self.escrowed += other.escrowed;
        self.sold += other.sold;
        self.damaged += other.damaged;
        self.returned += other.returned;
    }
}

/// One movement of one item, to become one event.
#[derive(Clone, Debug)]
pub struct Movement {
    /// What moves.
    pub item: Item,
    /// What it is called.
    pub event: EventType,
    /// Units, signed, as the event tells them.
    pub quantity_delta: i64,
    /// What it does to the balance.
    pub deltas: Deltas,
    /// Why.
    pub reason: Option<String>,
    /// What it refers to outside.
    pub reference_id: Option<String>,
    /// Whose units.
    pub reservation_id: Option<Uuid>,
    /// Of which order.
    pub order_id: Option<String>,
    /// Who did it, where a person did.
    pub operator: Option<String>,
    /// In which trace.
    pub trace_id: Option<Uuid>,
    /// What else there is to know about it.
    pub metadata: Option<serde_json::Value>,
}

/// A movement as it was posted.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    /// Of its event.
    pub event_id: i64,
    /// The balance before it.
    pub before: Balance,
    /// The balance after it.
    pub after: Balance,
}

#[derive(sqlx::FromRow)]
struct BalanceRow {
    sku_id: String,
    location_id: String,
    on_hand: i64,
    reserved: i64,
    unavailable: i64,
    safety_stock: i64,
    escrowed: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
}

/// Applies the movements to their balances, one update per item, and appends an event for each, in order.
///
/// # Errors
/// `Data` with the constraint's name where an invariant would break; `Broken` where an item has no balance row.
pub async fn post(tx: &mut PgConnection, movements: &[Movement]) -> Result<Vec<Posted>, LedgerError> {
    if movements.is_empty() {
        return Ok(Vec::new());
    }
    let mut sums: BTreeMap<&Item, Deltas> = BTreeMap::new();
    for movement in movements {
        sums.entry(&movement.item).or_default().add(&movement.deltas);
    }
    let mut images = update_balances(tx, &sums).await?;
    let mut posted = Vec::with_capacity(movements.len());
    for movement in movements {
        let image = images
            .get_mut(&movement.item)
            .ok_or_else(|| LedgerError::Broken(format!("no balance for {:?}", movement.item)))?;
        let before = *image;
        apply(image, &movement.deltas);
        posted.push((before, *image));
    }
    let ids = append_events(tx, movements, &posted).await?;
    Ok(posted
        .into_iter()
        .zip(ids)
        .map(|((before, after), event_id)| Posted {
            event_id,
            before,
            after,
        })
        .collect())
}

/// Returns the balances *before* the sums were applied.
async fn update_balances(
    tx: &mut PgConnection,
    sums: &BTreeMap<&Item, Deltas>,
) -> Result<BTreeMap<Item, Balance>, LedgerError> {
    let skus: Vec<&str> = sums.keys().map(|item| item.sku.as_str()).collect();
    let locations: Vec<&str> = sums.keys().map(|item| item.location.as_str()).collect();
    if sums.len() > 1 {
        sqlx::query(
            "-- balance.lock: in key order, so that two posters of the same items can't deadlock
             SELECT 1 FROM inventory_balance b
             JOIN UNNEST($1::text[], $2::text[]) AS want(sku_id, location_id) USING (sku_id, location_id)
             ORDER BY b.sku_id COLLATE \"C\", b.location_id COLLATE \"C\" FOR NO KEY UPDATE OF b",
        )
        .bind(&skus)
        .bind(&locations)
        .execute(&mut *tx)
        .await?;
    }
    let column = |pick: fn(&Deltas) -> i64| sums.values().map(pick).collect::<Vec<i64>>();
    let rows: Vec<BalanceRow> = sqlx::query_as(
        "-- balance.update: one row per item, whatever the number of movements
         UPDATE inventory_balance b SET
             on_hand = b.on_hand + d.on_hand, reserved = b.reserved + d.reserved,
             unavailable = b.unavailable + d.unavailable, escrowed = b.escrowed + d.escrowed, sold = b.sold + d.sold,
             damaged = b.damaged + d.damaged, returned = b.returned + d.returned,
             version = b.version + 1, updated_at = clock_timestamp()
         FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[],
                     $9::int8[])
              AS d(sku_id, location_id, on_hand, reserved, unavailable, escrowed, sold, damaged, returned)
         WHERE b.sku_id = d.sku_id AND b.location_id = d.location_id
         RETURNING b.sku_id, b.location_id, b.on_hand - d.on_hand AS on_hand, b.reserved - d.reserved AS reserved,
             b.unavailable - d.unavailable AS unavailable, b.safety_stock, b.escrowed - d.escrowed AS escrowed,
             b.sold - d.sold AS sold, b.damaged - d.damaged AS damaged, b.returned - d.returned AS returned",
    )
    .bind(&skus)
    .bind(&locations)
    .bind(column(|d| d.on_hand))
    .bind(column(|d| d.reserved))
    .bind(column(|d| d.unavailable))
    .bind(column(|d| d.escrowed))
    .bind(column(|d| d.sold))
    .bind(column(|d| d.damaged))
    .bind(column(|d| d.returned))
    .fetch_all(&mut *tx)
    .await?;
    let item_of = |row: &BalanceRow| {
        sums.keys()
            .find(|item| item.sku.as_str() == row.sku_id && item.location.as_str() == row.location_id)
            .map(|item| (*item).clone())
    };
    Ok(rows
        .iter()
        .filter_map(|row| {
            let balance = Balance {
                on_hand: row.on_hand,
                reserved: row.reserved,
                unavailable: row.unavailable,
                safety_stock: row.safety_stock,
                escrowed: row.escrowed,
                sold: row.sold,
                damaged: row.damaged,
                returned: row.returned,
            };
            item_of(row).map(|item| (item, balance))
        })
        .collect())
}

/// Changes an image as posting changes the balance.
pub(super) fn apply(balance: &mut Balance, deltas: &Deltas) {
    balance.on_hand += deltas.on_hand;
    balance.reserved += deltas.reserved;
    balance.unavailable += deltas.unavailable;
    balance.escrowed += deltas.escrowed;
    balance.sold += deltas.sold;
    balance.damaged += deltas.damaged;
    balance.returned += deltas.returned;
}

async fn append_events(
    tx: &mut PgConnection,
    movements: &[Movement],
    images: &[(Balance, Balance)],
) -> Result<Vec<i64>, LedgerError> {
    fn text<'a>(movements: &'a [Movement], pick: fn(&'a Movement) -> Option<&'a str>) -> Vec<Option<&'a str>> {
        movements.iter().map(pick).collect()
    }
    let delta = |pick: fn(&Deltas) -> i64| movements.iter().map(|m| pick(&m.deltas)).collect::<Vec<i64>>();
    let after = |pick: fn(&Balance) -> i64| images.iter().map(|(_, after)| pick(after)).collect::<Vec<i64>>();
    let ids = sqlx::query_scalar(
        "-- event.append
         INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand_delta, reserved_delta,
             unavailable_delta, escrowed_delta, sold_delta, damaged_delta, returned_delta, on_hand, reserved,
             unavailable, escrowed, sold, damaged, returned, reason, reference_id, reservation_id, order_id, operator,
             trace_id, metadata)
         SELECT * FROM UNNEST($1::inventory_event_type[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[],
             $7::int8[], $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::int8[], $13::int8[], $14::int8[],
             $15::int8[], $16::int8[], $17::int8[], $18::int8[], $19::text[], $20::text[], $21::uuid[], $22::text[],
             $23::text[], $24::uuid[], $25::jsonb[])
         RETURNING event_id",
    )
    .bind(movements.iter().map(|m| m.event.as_str()).collect::<Vec<_>>())
    .bind(movements.iter().map(|m| m.item.sku.as_str()).collect::<Vec<_>>())
    .bind(movements.iter().map(|m| m.item.location.as_str()).collect::<Vec<_>>())
    .bind(movements.iter().map(|m| m.quantity_delta).collect::<Vec<_>>())
    .bind(delta(|d| d.on_hand))
    .bind(delta(|d| d.reserved))
    .bind(delta(|d| d.unavailable))
    .bind(delta(|d| d.escrowed))
    .bind(delta(|d| d.sold))
    .bind(delta(|d| d.damaged))
    .bind(delta(|d| d.returned))
    .bind(after(|b| b.on_hand))
    .bind(after(|b| b.reserved))
    .bind(after(|b| b.unavailable))
    .bind(after(|b| b.escrowed))
    .bind(after(|b| b.sold))
    .bind(after(|b| b.damaged))
    .bind(after(|b| b.returned))
    .bind(text(movements, |m| m.reason.as_deref()))
    .bind(text(movements, |m| m.reference_id.as_deref()))
    .bind(movements.iter().map(|m| m.reservation_id).collect::<Vec<_>>())
    .bind(text(movements, |m| m.order_id.as_deref()))
    .bind(text(movements, |m| m.operator.as_deref()))
    .bind(movements.iter().map(|m| m.trace_id).collect::<Vec<_>>())
    .bind(
        movements
            .iter()
            .map(|m| m.metadata.as_ref().map(Json))
            .collect::<Vec<_>>(),
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(ids)
}

//! Posting: the one way a balance changes, with the event that says so in the same transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::LedgerError;
use super::column::column;
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

/// The balance of an item before all movements.
#[derive(sqlx::FromRow)]
struct BeforeRow {
    /// Of all events, lowest first; the same in each row.
    event_ids: Vec<i64>,
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

impl BeforeRow {
    fn balance(&self) -> Balance {
        Balance {
            on_hand: self.on_hand,
            reserved: self.reserved,
            unavailable: self.unavailable,
            safety_stock: self.safety_stock,
            escrowed: self.escrowed,
            sold: self.sold,
            damaged: self.damaged,
            returned: self.returned,
        }
    }
}

/// Applies the movements to their balances, one update per item, and appends an event for each, in order.
///
/// # Errors
/// `Data` with the constraint's name where an invariant would break; `Broken` where an item has no balance row.
pub async fn post(tx: &mut PgConnection, movements: &[Movement]) -> Result<Vec<Posted>, LedgerError> {
    if movements.is_empty() {
        return Ok(Vec::new());
    }
    lock_balances(tx, movements).await?;
    let rows = move_units(tx, movements).await?;
    let ids = rows.first().map_or(&[][..], |row| &row.event_ids);
    if ids.len() != movements.len() {
        return Err(LedgerError::Broken("a movement of an item that has no balance".into()));
    }
    let mut images: HashMap<(&str, &str), Balance> = rows
        .iter()
        .map(|row| ((row.sku_id.as_str(), row.location_id.as_str()), row.balance()))
        .collect();
    let mut posted = Vec::with_capacity(movements.len());
    for (movement, &event_id) in movements.iter().zip(ids) {
        let item = (movement.item.sku.as_str(), movement.item.location.as_str());
        let image = images.get_mut(&item).expect("there is an event of it");
        let before = *image;
        apply(image, &movement.deltas);
        let after = *image;
        posted.push(Posted {
            event_id,
            before,
            after,
        });
    }
    Ok(posted)
}

/// In key order, so that two posters of the same items can't deadlock. The update of one item is its lock.
async fn lock_balances(tx: &mut PgConnection, movements: &[Movement]) -> Result<(), LedgerError> {
    let items: BTreeSet<&Item> = movements.iter().map(|movement| &movement.item).collect();
    if items.len() < 2 {
        return Ok(());
    }
    sqlx::query(
        "-- balance.lock
         SELECT 1 FROM inventory_balance b
         JOIN UNNEST($1::text[], $2::text[]) AS want(sku_id, location_id) USING (sku_id, location_id)
         ORDER BY b.sku_id COLLATE \"C\", b.location_id COLLATE \"C\" FOR NO KEY UPDATE OF b",
    )
    .bind(items.iter().map(|item| item.sku.as_str()).collect::<Vec<_>>())
    .bind(items.iter().map(|item| item.location.as_str()).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
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

/// What the movements of one item come to, up to one of them.
fn so_far(movements: &[Movement]) -> (BTreeMap<&Item, Deltas>, Vec<Deltas>) {
    let mut sums: BTreeMap<&Item, Deltas> = BTreeMap::new();
    let mut steps = Vec::with_capacity(movements.len());
    for movement in movements {
        let sum = sums.entry(&movement.item).or_default();
        sum.add(&movement.deltas);
        steps.push(*sum);
    }
    (sums, steps)
}

/// Updates the balances and appends the events. The numbers of an item's events are drawn when its balance is ours, and
/// in the order of the movements: who pages relies on it.
async fn move_units(tx: &mut PgConnection, movements: &[Movement]) -> Result<Vec<BeforeRow>, LedgerError> {
    let (sums, steps) = so_far(movements);
    let of_item = |pick: fn(&Deltas) -> i64| sums.values().map(pick).collect::<Vec<i64>>();
    let delta = |pick: fn(&Deltas) -> i64| column(movements, &0, |m| pick(&m.deltas));
    let step = |pick: fn(&Deltas) -> i64| column(&steps, &0, pick);
    let text = |pick: fn(&Movement) -> Option<&str>| column(movements, &None, pick);
    let rows = sqlx::query_as(
        "-- post: one update per item, whatever the number of its movements
         WITH before AS (
             UPDATE inventory_balance b SET
                 on_hand = b.on_hand + d.on_hand, reserved = b.reserved + d.reserved,
                 unavailable = b.unavailable + d.unavailable, escrowed = b.escrowed + d.escrowed,
                 sold = b.sold + d.sold, damaged = b.damaged + d.damaged, returned = b.returned + d.returned,
                 version = b.version + 1, updated_at = clock_timestamp()
             FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[],
                         $9::int8[])
                  AS d(sku_id, location_id, on_hand, reserved, unavailable, escrowed, sold, damaged, returned)
             WHERE b.sku_id = d.sku_id AND b.location_id = d.location_id
             RETURNING b.sku_id, b.location_id, b.on_hand - d.on_hand AS on_hand, b.reserved - d.reserved AS reserved,
                 b.unavailable - d.unavailable AS unavailable, b.safety_stock, b.escrowed - d.escrowed AS escrowed,
                 b.sold - d.sold AS sold, b.damaged - d.damaged AS damaged, b.returned - d.returned AS returned
         ), event AS (
             INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand_delta,
                 reserved_delta, unavailable_delta, escrowed_delta, sold_delta, damaged_delta, returned_delta, on_hand,
                 reserved, unavailable, escrowed, sold, damaged, returned, reason, reference_id, reservation_id,
                 order_id, operator, trace_id, metadata)
             SELECT m.event_type, m.sku_id, m.location_id, m.quantity_delta, coalesce(m.on_hand, 0),
                 coalesce(m.reserved, 0), coalesce(m.unavailable, 0), coalesce(m.escrowed, 0), coalesce(m.sold, 0),
                 coalesce(m.damaged, 0), coalesce(m.returned, 0), b.on_hand + coalesce(m.to_on_hand, 0),
                 b.reserved + coalesce(m.to_reserved, 0), b.unavailable + coalesce(m.to_unavailable, 0),
                 b.escrowed + coalesce(m.to_escrowed, 0), b.sold + coalesce(m.to_sold, 0),
                 b.damaged + coalesce(m.to_damaged, 0), b.returned + coalesce(m.to_returned, 0), m.reason,
                 m.reference_id, m.reservation_id, m.order_id, m.operator, m.trace_id, m.metadata
             FROM UNNEST($10::inventory_event_type[], $11::text[], $12::text[], $13::int8[], $14::int8[], $15::int8[],
                         $16::int8[], $17::int8[], $18::int8[], $19::int8[], $20::int8[], $21::int8[], $22::int8[],
                         $23::int8[], $24::int8[], $25::int8[], $26::int8[], $27::int8[], $28::text[], $29::text[],
                         $30::uuid[], $31::text[], $32::text[], $33::uuid[], $34::jsonb[]) WITH ORDINALITY
                  AS m(event_type, sku_id, location_id, quantity_delta, on_hand, reserved, unavailable, escrowed, sold,
                       damaged, returned, to_on_hand, to_reserved, to_unavailable, to_escrowed, to_sold, to_damaged,
                       to_returned, reason, reference_id, reservation_id, order_id, operator, trace_id, metadata, n)
             JOIN before b USING (sku_id, location_id)
             ORDER BY m.n
             RETURNING event_id
         )
         SELECT (SELECT coalesce(array_agg(event_id ORDER BY event_id), '{}') FROM event) AS event_ids, sku_id, location_id,
             on_hand, reserved, unavailable, safety_stock, escrowed, sold, damaged, returned FROM before",
    )
    .bind(sums.keys().map(|item| item.sku.as_str()).collect::<Vec<_>>())
    .bind(sums.keys().map(|item| item.location.as_str()).collect::<Vec<_>>())
    .bind(of_item(|d| d.on_hand))
    .bind(of_item(|d| d.reserved))
    .bind(of_item(|d| d.unavailable))
    .bind(of_item(|d| d.escrowed))
    .bind(of_item(|d| d.sold))
    .bind(of_item(|d| d.damaged))
    .bind(of_item(|d| d.returned))
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
    .bind(step(|d| d.on_hand))
    .bind(step(|d| d.reserved))
    .bind(step(|d| d.unavailable))
    .bind(step(|d| d.escrowed))
    .bind(step(|d| d.sold))
    .bind(step(|d| d.damaged))
    .bind(step(|d| d.returned))
    .bind(text(|m| m.reason.as_deref()))
    .bind(text(|m| m.reference_id.as_deref()))
    .bind(column(movements, &None, |m| m.reservation_id))
    .bind(text(|m| m.order_id.as_deref()))
    .bind(text(|m| m.operator.as_deref()))
    .bind(column(movements, &None, |m| m.trace_id))
    .bind(column(movements, &None, |m| m.metadata.as_ref().map(Json)))
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows)
}

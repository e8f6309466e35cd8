//! Posting: the one way a balance changes, with the event that says so in the same transaction.

mod made;
mod reserving;
mod statement;

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use self::made::given_clock;
pub(super) use self::made::{Instant, Made, MadeRow, made_rows};
pub(super) use self::reserving::{Reserving, reserving};
use self::statement::{BeforeRow, bind, posting, tell_posted};
use super::LedgerError;
use crate::domain::balance::Balance;
use crate::domain::id::Item;
use crate::ledger::connection::Connection;

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

/// Applies the movements to their balances, one update per item, and appends an event for each, in order.
///
/// # Errors
/// `Data` with the constraint's name where an invariant would break; `Broken` where an item has no balance row.
pub(in crate::ledger) async fn post(tx: &mut Connection, movements: &[Movement]) -> Result<Vec<Posted>, LedgerError> {
    if movements.is_empty() {
        return Ok(Vec::new());
    }
    lock_balances(tx, movements).await?;
    let posting = sqlx::query_as(concat!(posting!("-- post", "", ""), tell_posted!()));
    posted(bind(posting, movements).fetch_all(tx).await?, movements)
}

/// The same, and makes these reservations before balances are locked: in the same round trip where there is one balance.
///
/// # Errors
/// As [`post`].
pub(super) async fn post_made(
    tx: &mut Connection,
    made: &Made<'_>,
    at: Instant,
    movements: &[Movement],
) -> Result<Vec<Posted>, LedgerError> {
    if made.0.is_empty() {
        return post(tx, movements).await;
    }
    if items(movements).len() != 1 {
        let alone = sqlx::query_as::<_, (i64,)>(concat!(
            "-- post.make\nWITH ",
            given_clock!(19, 20),
            made_rows!(""),
            " SELECT count(*) FROM made"
        ));
        made.bind(alone)
            .bind(at.now)
            .bind(at.stall_no)
            .fetch_one(&mut *tx)
            .await?;
        return post(tx, movements).await;
    }
    let posting = sqlx::query_as(concat!(
        posting!(
            "-- post.made",
            concat!(given_clock!(53, 54), made_rows!(after posting), ", "),
            "WHERE (SELECT count(*) FROM made) >= 0"
        ),
        tell_posted!()
    ));
    let posting = made.bind(bind(posting, movements)).bind(at.now).bind(at.stall_no);
    posted(posting.fetch_all(tx).await?, movements)
}

fn items(movements: &[Movement]) -> BTreeSet<&Item> {
    movements.iter().map(|movement| &movement.item).collect()
}

/// In key order, so that two posters of the same items can't deadlock. The update of one item is its lock.
async fn lock_balances(tx: &mut Connection, movements: &[Movement]) -> Result<(), LedgerError> {
    let items = items(movements);
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

/// What the rows say of each movement.
fn posted(rows: Vec<BeforeRow>, movements: &[Movement]) -> Result<Vec<Posted>, LedgerError> {
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

//! The read model against the ledger: a balance that has not changed since the feed came by reads the same in its copy.
//!
//! The feed may be behind: what has an event that it need not have seen is left out where the copy is older. How far
//! behind it is, is not for an audit.

use super::balances::{Figure, differences};
use super::{Audit, rows_max};
use crate::domain::difference::Kind;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let figures: Vec<Figure> = sqlx::query_as(
        "-- audit.snapshot: without the feed's row it is about to be made anew; a balance at version 0 has never changed, so
         -- no event has named it to the feed
         SELECT sku_id, location_id, f.field, coalesce(f.expected, 0) AS expected, coalesce(f.found, 0) AS found
         FROM inventory_balance b FULL JOIN inventory_snapshot n USING (sku_id, location_id) CROSS JOIN snapshot_feed,
             LATERAL (VALUES ('on_hand', b.on_hand, n.on_hand), ('reserved', b.reserved, n.reserved),
                 ('unavailable', b.unavailable, n.unavailable), ('escrowed', b.escrowed, n.escrowed),
                 ('safety_stock', b.safety_stock, n.safety_stock), ('sold', b.sold, n.sold),
                 ('damaged', b.damaged, n.damaged), ('returned', b.returned, n.returned),
                 ('version', b.version, n.version)) AS f(field, expected, found)
         WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0)
           AND (n.version >= coalesce(b.version, 0) OR NOT EXISTS (
               SELECT 1 FROM inventory_movement e
               WHERE e.sku_id = b.sku_id AND e.location_id = b.location_id AND e.event_id > settled_id))
         ORDER BY sku_id, location_id, f.field LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?;
    audit.take(differences(
        Kind::Snapshot,
        "the balance, and the copy that pages read",
        figures,
    ));
    Ok(())
}

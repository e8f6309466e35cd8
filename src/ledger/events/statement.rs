//! The statement that reads a page: where it begins in which index.
//!
//! Most filters have an index that ends in the event's id, so their page reads its own rows alone. Where only the tail
//! of an index is asked for (a SKU at all its locations, a kind at all locations), its few heads are walked side by side
//! and merged. One has none: an item's events of a *frequent* kind, of which there is one with every reservation, and an
//! index of them would be paid by every reservation. They are looked for among the item's events of any kind; after
//! [`WALK_MAX`] of these the walk stops and says where, so a page ends there and the next goes on.

use super::{Wanted, columns};
use crate::ledger::post::EventType;

/// Most events of an item that a page looks through for those of one kind.
pub(super) const WALK_MAX: usize = 2_000;

/// How a page's statement has to be planned: by the rows that it reads, along an index. A hot SKU has a thousand times
/// the events of another, and who estimates by the average would rather read and sort them all, or read all events in
/// the order of their ids and throw away most. What a plan seems to cost then must not have it compiled.
pub(in crate::ledger) const WALKED: &str = "-- events.walked
    SELECT set_config(name, value, true) FROM (VALUES ('enable_sort', 'off'), ('enable_bitmapscan', 'off'),
        ('random_page_cost', '0'), ('seq_page_cost', '0'), ('jit', 'off')) AS setting(name, value)";

/// The kinds of `event_of_rare_kind`, spelled as its predicate has them, else it is not used.
const RARE: &str = "e.event_type IN ('inventory_received', 'inventory_adjusted', 'inventory_damaged', \
                    'inventory_returned', 'inventory_transferred')";

/// A walk along an index: where it begins, and what belongs to it.
struct Head {
    /// As many walks as this has rows.
    from: &'static str,
    /// The index's columns before the event's id.
    columns: &'static str,
    /// What they are in this walk.
    values: &'static str,
    /// What else must be so for the index to be used.
    only: &'static str,
}

impl Head {
    fn of(from: &'static str, columns: &'static str, values: &'static str) -> Self {
        let only = "true";
        Head {
            from,
            columns,
            values,
            only,
        }
    }

    fn range(&self) -> String {
        format!(
            "({}) = ({}) AND {} AND e.event_id > $5 AND e.event_id <= $6 AND e.created_at >= $7 AND e.created_at < $8",
            self.columns, self.values, self.only
        )
    }
}

impl Wanted {
    /// The statement that reads a page, for a transaction that is [`WALKED`]. Its parameters: SKU, location,
    /// reservations, kind, after which id, up to which id, from when, until when, how many. Where `is_stop` is true the
    /// walk has stopped at this event, be it wanted or not.
    pub(super) fn statement(&self) -> String {
        let head = self.head();
        let range = head.range();
        let walk = if self.is_stopped() {
            format!(
                "SELECT * FROM (
                     SELECT e.*, row_number() OVER (ORDER BY e.event_id) > {WALK_MAX} AS is_stop FROM (
                         SELECT * FROM inventory_movement e WHERE {range} ORDER BY e.event_id LIMIT {WALK_MAX} + 1) e) e
                 WHERE e.is_stop OR"
            )
        } else {
            format!("SELECT *, false AS is_stop FROM inventory_movement e WHERE {range} AND")
        };
        format!(
            concat!(
                "-- events.page: one walk along an index per head, each at most a page long, merged
                 SELECT ",
                columns!(),
                ", e.is_stop FROM {from} CROSS JOIN LATERAL (
                     {walk} (($1::text IS NULL OR e.sku_id = $1) AND ($2::text IS NULL OR e.location_id = $2)
                         AND ($3::uuid[] IS NULL OR e.reservation_id = ANY($3))
                         AND ($4::text IS NULL OR e.event_type = $4::inventory_event_type))
                     ORDER BY e.event_id LIMIT $9
                 ) e ORDER BY e.event_id LIMIT $9"
            ),
            from = head.from,
            walk = walk,
        )
    }

    /// Whether its walk may stop before it has found a page.
    fn is_stopped(&self) -> bool {
        let is_of_order = self.order.is_some() || self.reservation.is_some();
        self.sku.is_some() && !is_of_order && self.event_type.is_some_and(EventType::is_frequent)
    }

    fn head(&self) -> Head {
        const ONE: &str = "(VALUES (1)) AS head";
        const PLACES: &str = "(SELECT location_id FROM inventory_balance WHERE sku_id = $1) AS head";
        const ITEM: &str = "e.sku_id, e.location_id";
        const ITEM_KIND: &str = "e.sku_id, e.location_id, e.event_type";
        const PLACE_KIND: &str = "e.location_id, e.event_type";
        if self.order.is_some() || self.reservation.is_some() {
            return Head::of("unnest($3::uuid[]) AS head(id)", "e.reservation_id", "head.id");
        }
        let is_rare = self.event_type.is_some_and(|kind| !kind.is_frequent());
        let rare = |from, values| Head {
            only: RARE,
            ..Head::of(from, ITEM_KIND, values)
        };
        match (&self.sku, &self.location, self.event_type) {
            (Some(_), Some(_), _) if is_rare => rare(ONE, "$1, $2, $4::inventory_event_type"),
            (Some(_), None, _) if is_rare => rare(PLACES, "$1, head.location_id, $4::inventory_event_type"),
            (Some(_), Some(_), _) => Head::of(ONE, ITEM, "$1, $2"),
            (Some(_), None, _) => Head::of(PLACES, ITEM, "$1, head.location_id"),
            (None, Some(_), None) => {
                let kinds = "unnest(enum_range(NULL::inventory_event_type)) AS head(kind)";
                Head::of(kinds, PLACE_KIND, "$2, head.kind")
            }
            (None, Some(_), Some(_)) => Head::of(ONE, PLACE_KIND, "$2, $4::inventory_event_type"),
            (None, None, Some(_)) => Head::of(
                "location AS head",
                PLACE_KIND,
                "head.location_id, $4::inventory_event_type",
            ),
            (None, None, None) => Head::of(ONE, "true", "true"),
        }
    }
}

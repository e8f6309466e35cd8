-- An item's events of a kind that is seldom, in order. The kinds that come with every reservation are not in it, so no
-- reservation pays for it; theirs are looked for among all of the item's. The build locks out writers of the days that are
-- there, for a second per million events, and the index is small.
CREATE INDEX event_of_rare_kind ON inventory_event (sku_id, location_id, event_type, event_id)
    WHERE event_type IN ('inventory_received', 'inventory_adjusted', 'inventory_damaged', 'inventory_returned',
        'inventory_transferred');

//! Stock that moves otherwise than by a sale: returns, transfers, corrections, and what waits for a second person.

mod returns;

use serde_json::{Value, json};

use crate::support::door::Door;

/// Stock of `hot`, by location, as the ledger has it.
async fn stock(door: &Door, location: &str) -> Value {
    let path = format!("/api/inventory?skuId=hot&locationId={location}&consistency=strong");
    let told = door.get(&path).await.expect(200);
    let of = |name: &str| told[name].clone();
    json!({"onHand": of("onHand"), "reserved": of("reserved"), "unavailable": of("unavailable"), "sold": of("sold"),
           "damaged": of("damaged"), "returned": of("returned")})
}

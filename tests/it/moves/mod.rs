//! Stock that moves otherwise than by a sale: returns, transfers, corrections, and what waits for a second person.

mod approvals;
mod corrections;
mod cut;
mod returns;
mod together;
mod transfers;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Door, Told};

/// Stock of `hot`, by location, as the ledger has it.
async fn stock(door: &Door, location: &str) -> Value {
    let path = format!("/api/inventory?skuId=hot&locationId={location}&consistency=strong");
    let told = door.get(&path).await.expect(200);
    let of = |name: &str| told[name].clone();
    json!({"onHand": of("onHand"), "reserved": of("reserved"), "unavailable": of("unavailable"), "sold": of("sold"),
           "damaged": of("damaged"), "returned": of("returned")})
}

/// Posts to the admin listener as this person.
async fn post_as(door: &Door, person: &str, path: &str, body: Value) -> Told {
    door.admin_with(Method::POST, path, body, &[("x-operator", person)])
        .await
}

async fn open(door: &Door, location: &str, active: bool) {
    let place = json!({"name": "Two", "kind": "store", "region": "eu", "active": active});
    door.put(&format!("/admin/locations/{location}"), place)
        .await
        .expect(200);
}

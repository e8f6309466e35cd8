//! Stock that moves otherwise than by a sale: returns, transfers, corrections, and what waits for a second person.

mod approvals;
mod corrections;
mod cut;
mod returns;
mod together;
mod transfers;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Door, Told, until};

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

/// What comes of this while the sale `s` is being stopped and no unit can come home from its lanes. When it returns, the
/// stop is over.
async fn while_stopping<T>(door: &Door, meanwhile: impl Future<Output = T>) -> T {
    // No grant gets a number while the lanes are locked.
    let mut lanes = door.pool.begin().await.expect("Postgres answers");
    let lock = sqlx::query("SELECT FROM lane FOR NO KEY UPDATE")
        .execute(&mut *lanes)
        .await;
    assert!(lock.expect("it locks").rows_affected() > 0);
    let met = async {
        until("the end", async || {
            let state = sqlx::query_scalar::<_, String>("SELECT state::text FROM sale").fetch_one(&door.pool);
            (state.await.expect("a sale") == "ended").then_some(())
        })
        .await;
        let met = meanwhile.await;
        lanes.rollback().await.expect("it lets go");
        met
    };
    let (stopped, met) = tokio::join!(door.act("s", "stop"), met);
    stopped.expect(200);
    met
}

async fn open(door: &Door, location: &str, active: bool) {
    let place = json!({"name": "Two", "kind": "store", "region": "eu", "active": active});
    door.put(&format!("/admin/locations/{location}"), place)
        .await
        .expect(200);
}

//! An entry that Postgres can't store, put into a lane past the checks of every gateway. It is over when it has been
//! set aside.

use std::sync::Arc;

use rand::Rng;

use super::{Scene, Wound};
use crate::domain::entry::Slip;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::outcome::Decision;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;
use crate::domain::trace::TraceId;
use crate::drill::DrillError;
use crate::drill::stack::pause;
use crate::flash::Flash;
use crate::worker::verify::flash_beside;

/// A lane moves on while we learn where it is: then it refuses us, and we look again.
const TRIES: u32 = 100;
/// Longest time until it is set aside, in looks.
const LOOKS: u32 = 3_000;

pub(super) async fn queue(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let ledger = scene.ledger;
    let flash = flash_beside(ledger, &scene.stack.redis.url()).await?;
    let sale = ledger.sale(&scene.shelf.sale).await?;
    let sale = Arc::new(sale.ok_or_else(|| DrillError::Stack("there is no sale".to_owned()))?);
    let slip = slip(scene);
    let id = reserve(scene, &flash, &sale, &slip).await?;
    flash.quit().await;
    for _ in 0..LOOKS {
        let cases = ledger.quarantined(None, 1).await?;
        if cases.iter().any(|case| case.reservation_id == Some(id)) {
            return Ok(Wound::Over);
        }
        pause(20).await;
    }
    Err(DrillError::Stack(format!("nobody set {id} aside")))
}

async fn reserve(scene: &Scene<'_>, flash: &Flash, sale: &Arc<Sale>, slip: &Slip) -> Result<ReservationId, DrillError> {
    let mut said = String::new();
    for _ in 0..TRIES {
        for lane in scene.ledger.lanes().await? {
            flash.adopt_lane(lane.lane, lane.epoch, lane.cursor.seq);
        }
        match flash.reserve(sale, slip, false).await.map(|outcome| outcome.decision) {
            Ok(Decision::Reserved { id, .. }) => return Ok(id),
            other => said = format!("{other:?}"),
        }
        pause(20).await;
    }
    Err(DrillError::Stack(format!("the lane takes no poison: {said}")))
}

fn slip(scene: &mut Scene<'_>) -> Slip {
    // No text in Postgres holds this byte.
    let order = format!("poison\0{}", scene.chance.random::<u32>());
    let item = &scene.shelf.item;
    let line = KeyHash::order_line(&order, item.sku.as_str(), item.location.as_str());
    Slip {
        explicit_key: false,
        quantity: 1,
        ttl_ms: 0,
        key: line,
        line,
        fingerprint: Fingerprint::of(&[&order]),
        trace: TraceId(scene.chance.random()),
        order,
        user: None,
    }
}

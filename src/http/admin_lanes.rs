//! The lanes, as operators see them.

use std::sync::Arc;

use axum::extract::State;
use futures::future::join_all;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::json::Json;
use super::problem::Problem;
use crate::flash::{Health, LaneMeta};
use crate::ledger::lane::LaneRow;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(list_lanes))
}

/// All lanes.
#[derive(Serialize, utoipa::ToSchema)]
struct LanesBody {
    /// By number.
    lanes: Vec<LaneBody>,
}

/// A lane.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct LaneBody {
    /// Its number.
    lane: u16,
    /// The gateway that carries its queue into the ledger; `null`: none, for some seconds at most.
    owner: Option<String>,
    /// Its generation; recovery raises it.
    epoch: u32,
    /// `open`; `closed` while it is recovered; `unreachable` where Redis does not answer; `fallback` where the ledger
    /// decides meanwhile.
    state: &'static str,
    /// Last entry of its queue, as Redis has it.
    seq: Option<u64>,
    /// Last entry that is durable.
    cursor: u64,
    /// Reservations that wait for the ledger; `null`: Redis can't tell.
    queue_depth: Option<u64>,
    /// How long the ledger has not moved while some wait, in ms; `null`: Redis can't tell whether some do.
    lag_ms: Option<i64>,
    /// Number of the last grant that the ledger gave.
    last_grant: i64,
    /// Number of the last grant in force.
    granted: Option<i64>,
}

/// Every lane: its owner, and how far Redis and the ledger have got.
#[utoipa::path(get, path = "/admin/lanes", tag = "Admin", responses(
    (status = 200, description = "All lanes", body = LanesBody),
    (status = 503, description = "`LEDGER_UNAVAILABLE`"),
))]
async fn list_lanes(State(gateway): State<Arc<Gateway>>) -> Result<Json<LanesBody>, Problem> {
    let rows = gateway.ledger.lanes().await?;
    let now = gateway.ledger.now().await?;
    let metas = join_all(rows.iter().map(|row| gateway.flash.lane_meta(row.lane))).await;
    let mut lanes = Vec::with_capacity(rows.len());
    for (row, meta) in rows.into_iter().zip(metas) {
        // A lane that Redis can't tell of is shown as the ledger has it.
        let suspect = gateway.flash.health(row.lane) == Health::Suspect;
        let state = match &meta {
            _ if row.fallback => "fallback",
            Err(_) => "unreachable",
            Ok(Some(meta)) if meta.open && row.open && !suspect => "open",
            Ok(_) => "closed",
        };
        lanes.push(show(&row, meta.ok().flatten().as_ref(), state, now.0));
    }
    Ok(Json(LanesBody { lanes }))
}

fn show(row: &LaneRow, meta: Option<&LaneMeta>, state: &'static str, now_ms: i64) -> LaneBody {
    let queue_depth = meta.map(|meta| meta.total.saturating_sub(meta.done));
    let unmoved_ms = (now_ms - row.cursor_at.0).max(0);
    LaneBody {
        lane: row.lane.0,
        owner: row.owner_name.clone().or_else(|| row.owner.map(|id| id.to_string())),
        epoch: row.epoch,
        state,
        seq: meta.map(|meta| meta.seq),
        cursor: row.cursor.seq,
        queue_depth,
        lag_ms: queue_depth.map(|depth| if depth > 0 { unmoved_ms } else { 0 }),
        last_grant: row.grant_no,
        granted: meta.map(|meta| meta.grant_no),
    }
}

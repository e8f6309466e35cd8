//! A sale, as answers show it: the ledger's figures, and what Redis has beyond them while it can be asked.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::lane::LaneNo;
use crate::domain::reconciliation::FreezeCause;
use crate::domain::sale::{RedisDown, Sale, SaleState, UserRate};
use crate::domain::time::Millis;
use crate::flash::LaneFigures;
use crate::http::Gateway;
use crate::http::problem::Problem;
use crate::ledger::sale_figures::SaleFigures;

/// A sale.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Sale)]
pub(super) struct SaleBody {
    sale_id: String,
    sku_id: String,
    location_id: String,
    state: SaleState,
    #[schema(value_type = Option<String>, format = DateTime)]
    starts_at: Option<Millis>,
    #[schema(value_type = Option<String>, format = DateTime)]
    ends_at: Option<Millis>,
    /// Units of the sale, sold ones included.
    allocation: i64,
    /// Units that can be reserved; before the start, all.
    remaining: i64,
    /// Where they lie; empty before the start.
    buckets: Vec<Bucket>,
    per_user_limit: Option<u32>,
    user_rate: Option<UserRate>,
    hold_seconds: u32,
    max_hold_seconds: u32,
    ack_wait_ms: u32,
    redis_down: RedisDown,
    /// Requests a second that each gateway has the ledger decide while Redis is away; of a sale with `redisDown` `ledger`.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_down_rate: Option<u32>,
    /// Units that may be accepted and not durable, over all buckets; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    undurable_max: Option<u64>,
    /// While Redis is away and the ledger serves the sale: where. Left out where all is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<Fallback>,
    counts: Counts,
    refused: Refused,
    /// Reservations in the sale's lanes that wait for the ledger.
    queue_depth: u64,
    /// How long the first of them has waited.
    lag_ms: i64,
    /// Units by which Redis' counters are above the ledger's.
    drift: i64,
    /// Why it froze by itself; not there where it did not, or a person froze it.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_for: Option<FreezeCause>,
}

/// Units of a sale in one lane.
#[derive(Serialize, utoipa::ToSchema)]
struct Bucket {
    lane: u16,
    remaining: i64,
}

/// What the ledger serves of a sale while Redis is away.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Fallback {
    /// The lanes whose buyers it serves.
    lanes: Vec<u16>,
    /// Units that are kept back there, for what Redis may have accepted before.
    kept_back: i64,
}

/// Units, cumulative.
#[derive(Serialize, utoipa::ToSchema)]
struct Counts {
    /// Taken in Redis.
    accepted: i64,
    /// Reserved in the ledger.
    durable: i64,
    committed: i64,
    released: i64,
    expired: i64,
    /// Accepted, then refused by the ledger.
    rejected: i64,
}

/// Requests refused, by code.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Refused {
    insufficient_stock: i64,
    user_limit_exceeded: i64,
    rate_limited: i64,
}

/// The sale as it is now.
pub(super) async fn show(gateway: &Gateway, sale: &Sale) -> Result<SaleBody, Problem> {
    let figures = gateway.ledger.sale_figures(sale.no).await?;
    let live = if has_lanes(sale) {
        live_figures(gateway, sale).await
    } else {
        None
    };
    let lag_ms = lag_ms(gateway, live.as_deref().unwrap_or_default()).await?;
    Ok(assemble(sale, &figures, live.as_deref(), lag_ms))
}

/// The sale's lanes know it, or did until lately.
fn has_lanes(sale: &Sale) -> bool {
    let awake = match sale.state {
        SaleState::Frozen => sale.thaws_to.unwrap_or(SaleState::Live),
        state => state,
    };
    !matches!(awake, SaleState::Draft | SaleState::Scheduled) && !sale.drained
}

async fn live_figures(gateway: &Gateway, sale: &Sale) -> Option<Vec<LaneFigures>> {
    match gateway.flash.lane_figures(sale.no, &sale.lanes).await {
        Ok(figures) => Some(figures),
        Err(error) => {
            tracing::warn!(sale = %sale.id, %error, "a sale is shown without Redis' figures");
            None
        }
    }
}

/// The age of the oldest entry behind the cursor of any lane in which reservations wait.
async fn lag_ms(gateway: &Gateway, live: &[LaneFigures]) -> Result<i64, Problem> {
    let waiting: Vec<LaneNo> = live.iter().filter(|f| f.queue_depth > 0).map(|f| f.lane).collect();
    let mut oldest: Option<i64> = None;
    for lane in waiting {
        let cursor = gateway.ledger.lane(lane).await?.cursor;
        let view = gateway.flash.look(lane, &[], (cursor.epoch, cursor.seq), 1, &[]).await;
        let first = view.ok().and_then(|view| view.entries.into_iter().next());
        let at = first.and_then(|entry| std::str::from_utf8(&entry.time).ok()?.parse::<i64>().ok());
        oldest = at.into_iter().chain(oldest).min();
    }
    let Some(oldest) = oldest else { return Ok(0) };
    let now = gateway.ledger.now().await?;
    Ok((now.0 - oldest).max(0))
}

fn assemble(sale: &Sale, figures: &SaleFigures, live: Option<&[LaneFigures]>, lag_ms: i64) -> SaleBody {
    let buckets = buckets(sale, figures, live);
    let falls_back = sale.redis_down == RedisDown::Ledger;
    let (mut accepted, mut queue_depth) = (figures.durable + figures.rejected, 0);
    if let Some(live) = live {
        accepted = accepted.max(live.iter().map(|f| f.taken).sum());
        queue_depth = live.iter().map(|f| f.queue_depth).sum();
    }
    SaleBody {
        sale_id: sale.id.to_string(),
        sku_id: sale.item.sku.to_string(),
        location_id: sale.item.location.to_string(),
        state: sale.state,
        starts_at: sale.starts_at,
        ends_at: sale.ends_at,
        allocation: sale.allocation,
        remaining: if has_lanes(sale) || sale.drained {
            buckets.iter().map(|bucket| bucket.remaining).sum()
        } else {
            sale.allocation
        },
        buckets,
        per_user_limit: sale.per_user_limit,
        user_rate: sale.user_rate,
        hold_seconds: sale.hold_ms / 1_000,
        max_hold_seconds: sale.hold_max_ms / 1_000,
        ack_wait_ms: sale.ack_wait_ms,
        redis_down: sale.redis_down,
        redis_down_rate: falls_back.then_some(sale.redis_down_rate),
        undurable_max: falls_back.then(|| u64::from(sale.lane_undurable_max()) * sale.lanes.len() as u64),
        fallback: fallback(sale, figures).filter(|_| falls_back),
        counts: Counts {
            accepted,
            durable: figures.durable,
            committed: figures.committed,
            released: figures.released,
            expired: figures.expired,
            rejected: figures.rejected,
        },
        refused: Refused {
            insufficient_stock: figures.refused.stock,
            user_limit_exceeded: figures.refused.limit,
            rate_limited: figures.refused.rate,
        },
        queue_depth,
        lag_ms,
        drift: figures.drift,
        frozen_for: figures.frozen_for,
    }
}

fn fallback(sale: &Sale, figures: &SaleFigures) -> Option<Fallback> {
    let aside = figures.buckets.iter().filter(|bucket| bucket.fallback);
    let (lanes, kept_back) = aside
        .map(|bucket| (bucket.lane.0, bucket.kept_back))
        .unzip::<_, _, Vec<_>, Vec<_>>();
    (!lanes.is_empty() && has_lanes(sale)).then(|| Fallback {
        lanes,
        kept_back: kept_back.iter().sum(),
    })
}

/// Redis' counters, else the ledger's; none before the start and after the end.
fn buckets(sale: &Sale, figures: &SaleFigures, live: Option<&[LaneFigures]>) -> Vec<Bucket> {
    if !has_lanes(sale) {
        return Vec::new();
    }
    let counted: BTreeMap<LaneNo, i64> = match live {
        Some(live) => live.iter().map(|f| (f.lane, f.free)).collect(),
        None => figures.buckets.iter().map(|b| (b.lane, b.counter)).collect(),
    };
    let bucket = |lane: &LaneNo| Bucket {
        lane: lane.0,
        remaining: counted.get(lane).copied().unwrap_or(0),
    };
    sale.lanes.iter().map(bucket).collect()
}

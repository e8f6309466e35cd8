//! The pulse: once a second this process says that it lives, measures Postgres' time, and looks at its dependencies.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{Context, repeat};
use crate::flash::Health as LaneHealth;
use crate::health::Standing;
use crate::ledger::LedgerError;
use crate::metric;

const EVERY: Duration = Duration::from_secs(1);

/// Beats until stopped.
pub(crate) async fn run(context: Context) {
    let what = "pulse";
    repeat(&context, what, EVERY, async || {
        let beat = run_once(&context).await;
        let standing = beat
            .as_ref()
            .err()
            .map_or(Standing::Up, |error| Standing::Away(error.to_string()));
        context.health.change(|state| state.postgres = standing);
        beat.map(|()| false)
    })
    .await;
}

/// One beat.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context) -> Result<(), LedgerError> {
    look_at_lanes(context).await;
    let asked = Instant::now();
    let now = context.ledger.now().await?;
    context.clock.measure(now, asked, asked.elapsed());
    if context.ledger.beat(context.gateway, &context.name).await?.stalled {
        tracing::warn!("no gateway could end reservations for a while; deadlines move by that time");
    }
    let drift = context.ledger.drift().await?;
    for lane in context.flash.lane_numbers() {
        let units = drift.iter().find(|(of, _)| *of == lane).map_or(0, |(_, units)| *units);
        let units = i32::try_from(units).unwrap_or(i32::MAX);
        metrics::gauge!(metric::DRIFT_UNITS, "lane" => lane.to_string()).set(f64::from(units));
    }
    Ok(())
}

async fn look_at_lanes(context: &Context) {
    // All at once: a beat must not wait for one lane after the other of a server that hangs.
    let depths = context
        .flash
        .lane_numbers()
        .map(|lane| async move { (lane, context.flash.queue_depth(lane).await) });
    for (lane, depth) in join_all(depths).await {
        // A lane that can't be asked keeps its last figure; its state tells why.
        let Ok(depth) = depth else { continue };
        let depth = u32::try_from(depth).unwrap_or(u32::MAX);
        metrics::gauge!(metric::QUEUE_DEPTH, "lane" => lane.to_string()).set(f64::from(depth));
    }
    let open = context
        .flash
        .lane_numbers()
        .filter(|lane| matches!(context.flash.health(*lane), LaneHealth::Open(_)))
        .count();
    let all = context.flash.lane_numbers().count();
    let connected = context.flash.is_connected();
    let redis = if connected {
        Standing::Up
    } else {
        Standing::Away("not connected".into())
    };
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    context.health.change(|state| {
        state.redis = redis;
        (state.lanes_open, state.lanes_closed) = (count(open), count(all - open));
    });
}

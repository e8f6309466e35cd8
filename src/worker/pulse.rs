//! The pulse: once a second this process says that it lives, measures Postgres' time, and looks at its dependencies.

use std::time::{Duration, Instant};

use super::{Context, repeat};
use crate::domain::lane::LaneNo;
use crate::flash::{Health as LaneHealth, Waiting};
use crate::health::Standing;
use crate::ledger::{LedgerError, Pace};
use crate::metric;

const EVERY: Duration = Duration::from_secs(1);

/// Beats until stopped, and says then that it beats no more.
pub(crate) async fn run(context: Context) {
    // Of its own: others take over from whoever has not beaten for three seconds, so an answer that does not come must
    // not be waited for longer than need be, nor a beat for a connection.
    let context = context.apart(1, Pace::Urgent);
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
    // A beat that was under way may have come after the lanes were given back, and would count for three more seconds.
    if let Err(error) = context.ledger.leave(context.gateway).await {
        tracing::warn!(%error, "others will wait a moment before they take this gateway for gone");
    }
    context.ledger.close().await;
}

/// One beat.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context) -> Result<(), LedgerError> {
    let reached = look_at_lanes(context).await;
    if context.ledger.beat(context.gateway, &context.name).await?.stalled {
        tracing::warn!("no gateway could end reservations for a while; deadlines move by that time");
    }
    // After the beat, which has found out whether the connection works: only the way there and back counts.
    let asked = Instant::now();
    let now = context.ledger.now().await?;
    context.clock.measure(now, asked, asked.elapsed());
    context.ledger.tell_reach(context.gateway, &reached).await?;
    let drift = context.ledger.drift().await?;
    for lane in context.flash.lane_numbers() {
        let units = drift.iter().find(|(of, _)| *of == lane).map_or(0, |(_, units)| *units);
        let units = i32::try_from(units).unwrap_or(i32::MAX);
        metrics::gauge!(metric::DRIFT_UNITS, "lane" => lane.to_string()).set(f64::from(units));
    }
    Ok(())
}

/// Tells how far the ledger is behind the lane, by what the lane has: so it is told by whoever reaches the lane, and also
/// while Postgres is away or nobody owns it.
fn tell_waiting(context: &Context, lane: LaneNo, Waiting { depth, since }: Waiting) {
    let depth = u32::try_from(depth).unwrap_or(u32::MAX);
    metrics::gauge!(metric::QUEUE_DEPTH, "lane" => lane.to_string()).set(f64::from(depth));
    let lag = since.and_then(|since| Some(context.clock.now()?.0.saturating_sub(since.0)));
    let lag = Duration::from_millis(u64::try_from(lag.unwrap_or(0)).unwrap_or(0));
    metrics::gauge!(metric::QUEUE_LAG_SECONDS, "lane" => lane.to_string()).set(lag.as_secs_f64());
}

/// Asks every lane how it is; those that answered.
async fn look_at_lanes(context: &Context) -> Vec<LaneNo> {
    let mut reached = Vec::new();
    for (lane, waiting) in context.flash.reach().await {
        // A lane that can't be asked keeps its last figures; its state tells why.
        if let Ok(waiting) = waiting {
            tell_waiting(context, lane, waiting);
            reached.push(lane);
        }
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
    reached
}

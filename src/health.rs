//! What this process can do right now: set by workers and watchers, told by `/readyz`, waited for by whoever needs it.

use serde::Serialize;
use tokio::sync::watch;

use crate::metric;

/// How a dependency stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "standing", content = "cause")]
pub enum Standing {
    /// Nobody has asked it yet.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not, and why.
    Away(String),
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It waits for what it needs.
    #[default]
    Starting,
    /// It serves as well as its dependencies let it.
    Serving,
    /// It takes nothing new.
    Stopping,
}

/// What a client can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Not yet anything.
    Starting,
    /// Everything.
    Serving,
    /// Endings and reads; items of lanes being rebuilt answer `STOCK_UNAVAILABLE`.
    Recovering,
    /// Endings and reads; Redis is away.
    EndingsOnly,
    /// The same, and sales that want it go on in the ledger, at a lower ceiling.
    LedgerFallback,
    /// New reservations as `accepted` while the queue has room; Postgres is away, so no endings.
    AcceptingOnly,
    /// Nothing: both are away.
    Down,
    /// Nothing new any more.
    Stopping,
}

impl Mode {
    /// Whether requests should be sent here at all.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(
            self,
            Mode::Serving | Mode::Recovering | Mode::EndingsOnly | Mode::LedgerFallback | Mode::AcceptingOnly
        )
    }
}

/// All of it, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Where the process is in its life.
    pub stage: Stage,
    /// Live stock.
    pub redis: Standing,
    /// The ledger.
    pub postgres: Standing,
    /// Lanes that take reservations.
    pub lanes_open: u16,
    /// Lanes that don't.
    pub lanes_closed: u16,
    /// Lanes for which the ledger decides, since Redis is away.
    pub lanes_fallback: u16,
    /// Whether a recovery runs.
    pub recovering: bool,
}

impl State {
    /// What a client can expect.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.stage {
            Stage::Starting => return Mode::Starting,
            Stage::Stopping => return Mode::Stopping,
            Stage::Serving => {}
        }
        match (self.redis == Standing::Up, self.postgres == Standing::Up) {
            // A Redis that hangs keeps its connections.
            (_, true) if self.lanes_fallback > 0 => Mode::LedgerFallback,
            (true, true) if self.recovering || self.lanes_closed > 0 => Mode::Recovering,
            (true, true) => Mode::Serving,
            (false, true) => Mode::EndingsOnly,
            (true, false) => Mode::AcceptingOnly,
            (false, false) => Mode::Down,
        }
    }
}

/// The state, shared.
#[derive(Debug, Default)]
pub struct Health {
    state: watch::Sender<State>,
}

impl Health {
    /// Changes it; who waits is woken only where something differs.
    pub fn change(&self, how: impl FnOnce(&mut State)) {
        let changed = self.state.send_if_modified(|state| {
            let before = state.clone();
            how(state);
            *state != before
        });
        if changed {
            publish(&self.now());
        }
    }

    /// The state now.
    #[must_use]
    pub fn now(&self) -> State {
        self.state.borrow().clone()
    }

    /// To wait for a change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

fn publish(state: &State) {
    for (name, standing) in [("redis", &state.redis), ("postgres", &state.postgres)] {
        let up = if *standing == Standing::Up { 1.0 } else { 0.0 };
        metrics::gauge!(metric::DEPENDENCY_UP, "dependency" => name).set(up);
    }
    metrics::gauge!(metric::LANES, "state" => "open").set(f64::from(state.lanes_open));
    metrics::gauge!(metric::LANES, "state" => "closed").set(f64::from(state.lanes_closed));
    metrics::gauge!(metric::LANES, "state" => "fallback").set(f64::from(state.lanes_fallback));
    tracing::info!(mode = ?state.mode(), redis = ?state.redis, postgres = ?state.postgres, lanes_open = state.lanes_open,
        lanes_closed = state.lanes_closed, recovering = state.recovering, "health changed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dependency_away_leaves_half_of_the_work() {
        let away = || Standing::Away("refused".to_owned());
        let serving = State {
            stage: Stage::Serving,
            redis: Standing::Up,
            postgres: Standing::Up,
            lanes_open: 16,
            ..State::default()
        };
        let mode = |state: State| state.mode();
        assert_eq!(State::default().mode(), Mode::Starting);
        assert_eq!(serving.mode(), Mode::Serving);
        assert_eq!(
            mode(State {
                lanes_closed: 1,
                ..serving.clone()
            }),
            Mode::Recovering
        );
        assert_eq!(
            mode(State {
                redis: away(),
                ..serving.clone()
            }),
            Mode::EndingsOnly
        );
        assert_eq!(
            mode(State {
                postgres: away(),
                ..serving.clone()
            }),
            Mode::AcceptingOnly
        );
        assert_eq!(
            mode(State {
                redis: away(),
                lanes_fallback: 1,
                ..serving.clone()
            }),
            Mode::LedgerFallback
        );
        let down = State {
            redis: away(),
            postgres: away(),
            ..serving
        };
        assert!(!down.mode().is_ready());
        assert_eq!(
            mode(State {
                stage: Stage::Stopping,
                ..down
            }),
            Mode::Stopping
        );
    }
}

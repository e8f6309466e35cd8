//! The table that a run is read by: what is to be reached, and how each figure is made of a round's.

use serde::Serialize;

use crate::figures::{Round, Spread};

/// A line of the table.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    /// What it must reach; none where it is shown for comparison.
    pub(crate) target: Option<Target>,
    pub(crate) unit: &'static str,
    of: fn(&Round) -> Option<f64>,
}

/// Where a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) least: f64,
    pub(crate) aim: f64,
    #[serde(skip)]
    better: Better,
}

#[derive(Clone, Copy, Debug)]
enum Better {
    Higher,
    Lower,
}

/// How far a figure got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reached {
    Aim,
    Least,
    Missed,
}

impl Target {
    pub(crate) fn reached(&self, figure: f64) -> Reached {
        let is_there = |bound: f64| match self.better {
            Better::Higher => figure >= bound,
            Better::Lower => figure <= bound,
        };
        if is_there(self.aim) {
            Reached::Aim
        } else if is_there(self.least) {
            Reached::Least
        } else {
            Reached::Missed
        }
    }
}

impl Row {
    /// Over all rounds; none where none measured it.
    pub(crate) fn spread(&self, rounds: &[Round]) -> Option<Spread> {
        Spread::of(rounds.iter().filter_map(self.of).collect())
    }
}

const fn higher(least: f64, aim: f64) -> Option<Target> {
    Some(Target {
        least,
        aim,
        better: Better::Higher,
    })
}

const fn lower(least: f64, aim: f64) -> Option<Target> {
    Some(Target {
        least,
        aim,
        better: Better::Lower,
    })
}

/// The table of `make bench`.
pub(crate) const BENCH: [Row; 27] = [
    Row {
        what: "accepted/s, one hot SKU, from an empty queue ÷ no-op handler",
        target: higher(0.50, 0.70),
        unit: "×",
        of: |round| round.ratio("accepted.rate", "no-op.rate"),
    },
    Row {
        what: "… ÷ the usual script's gateway, its writer running too",
        target: higher(1.3, 1.8),
        unit: "×",
        of: |round| round.ratio("accepted.rate", "usual.rate"),
    },
    Row {
        what: "… ÷ the same without a writer, so without a database",
        target: None,
        unit: "×",
        of: |round| round.ratio("accepted.rate", "usual-unwritten.rate"),
    },
    Row {
        what: "… steady (the queue does not grow) ÷ no-op handler",
        target: higher(0.28, 0.45),
        unit: "×",
        of: |round| round.ratio("steady.rate", "no-op.rate"),
    },
    Row {
        what: "durable/s, sale, 64 callers ÷ textbook: UPDATE, INSERT, a transaction",
        target: higher(8.0, 20.0),
        unit: "×",
        of: |round| round.ratio("durable.64.rate", "textbook.64.rate"),
    },
    Row {
        what: "durable/s, sale, 512 callers ÷ textbook: UPDATE, INSERT, a transaction",
        target: higher(8.0, 20.0),
        unit: "×",
        of: |round| round.ratio("durable.512.rate", "textbook.512.rate"),
    },
    Row {
        what: "durable/s, ledger engine, 64 callers ÷ textbook",
        target: higher(8.0, 20.0),
        unit: "×",
        of: |round| round.ratio("engine.64.rate", "textbook.64.rate"),
    },
    Row {
        what: "durable/s, ledger engine, 512 callers ÷ textbook",
        target: None,
        unit: "×",
        of: |round| round.ratio("engine.512.rate", "textbook.512.rate"),
    },
    Row {
        what: "durable/s, sale, 64 callers ÷ the same in one statement",
        target: None,
        unit: "×",
        of: |round| round.ratio("durable.64.rate", "one-statement.64.rate"),
    },
    Row {
        what: "durable/s, sale, 512 callers ÷ the same in one statement",
        target: None,
        unit: "×",
        of: |round| round.ratio("durable.512.rate", "one-statement.512.rate"),
    },
    Row {
        what: "durable/s, ledger engine, 64 callers ÷ the same in one statement",
        target: None,
        unit: "×",
        of: |round| round.ratio("engine.64.rate", "one-statement.64.rate"),
    },
    Row {
        what: "durable/s, ledger engine, 512 callers ÷ the same in one statement",
        target: None,
        unit: "×",
        of: |round| round.ratio("engine.512.rate", "one-statement.512.rate"),
    },
    Row {
        what: "durable/s, sale, 64 callers ÷ a row per unit, SKIP LOCKED",
        target: None,
        unit: "×",
        of: |round| round.ratio("durable.64.rate", "skip-locked.64.rate"),
    },
    Row {
        what: "durable/s, sale, 512 callers ÷ a row per unit, SKIP LOCKED",
        target: None,
        unit: "×",
        of: |round| round.ratio("durable.512.rate", "skip-locked.512.rate"),
    },
    Row {
        what: "sold-out answers/s, 1 % of them replays ÷ no-op handler",
        target: higher(0.85, 0.95),
        unit: "×",
        of: |round| round.ratio("sold-out.rate", "no-op.rate"),
    },
    Row {
        what: "reads/s (GET /api/inventory) ÷ no-op handler",
        target: higher(0.85, 0.95),
        unit: "×",
        of: |round| round.ratio("read.rate", "no-op.rate"),
    },
    Row {
        what: "… ÷ a no-op handler of the same page",
        target: None,
        unit: "×",
        of: |round| round.ratio("read.rate", "no-op-read.rate"),
    },
    Row {
        what: "commits/s of durable reservations ÷ no-op handler",
        target: None,
        unit: "×",
        of: |round| round.ratio("commit.rate", "no-op.rate"),
    },
    Row {
        what: "releases/s, the units back on sale ÷ no-op handler",
        target: None,
        unit: "×",
        of: |round| round.ratio("release.rate", "no-op.rate"),
    },
    Row {
        what: "Redis CPU per accepted reservation at full load",
        target: lower(5.0, 3.0),
        unit: "µs",
        of: |round| round.get("accepted.redis_us"),
    },
    Row {
        what: "Redis memory per live reservation (26-character ids)",
        target: lower(160.0, 110.0),
        unit: "B",
        of: |round| round.get("live.redis_bytes"),
    },
    Row {
        what: "Postgres disk per reservation, indexes included",
        target: lower(700.0, 450.0),
        unit: "B",
        of: |round| round.get("disk.bytes"),
    },
    Row {
        what: "Postgres log (WAL) per reservation",
        target: None,
        unit: "B",
        of: |round| round.get("wal.bytes"),
    },
    Row {
        what: "p95 at 70 % of the steady rate, open loop, durable",
        target: lower(25.0, 10.0),
        unit: "ms",
        of: |round| round.get("open.p95_ms"),
    },
    Row {
        what: "… at 70 % of the rate of 512 durable callers",
        target: None,
        unit: "ms",
        of: |round| round.get("open-durable.p95_ms"),
    },
    Row {
        what: "burst of 10 steady rates: p95 of what is not shed",
        target: lower(120.0, 50.0),
        unit: "ms",
        of: |round| round.get("burst.p95_ms"),
    },
    Row {
        what: "… steady rates that were really sent",
        target: None,
        unit: "×",
        of: |round| round.get("burst.sent_steady_rates"),
    },
];

/// The table of `make soak`.
pub(crate) const SOAK: [Row; 12] = [
    Row {
        what: "rate over 10,000 sales, 1,000,000 SKUs, past reservations ÷ one SKU, none",
        target: higher(0.8, 0.95),
        unit: "×",
        of: |round| round.ratio("catalogue.spread_rate", "catalogue.alone_rate"),
    },
    Row {
        what: "… of one hot SKU among these",
        target: None,
        unit: "×",
        of: |round| round.ratio("catalogue.hot_rate", "catalogue.alone_rate"),
    },
    Row {
        what: "… past reservations",
        target: None,
        unit: "",
        of: |round| round.get("catalogue.past_reservations"),
    },
    Row {
        what: "30 minutes at 90 % of the steady rate: errors",
        target: lower(0.5, 0.0),
        unit: "%",
        of: |round| round.get("endurance.errors_percent"),
    },
    Row {
        what: "… granted, all of them expiring meanwhile",
        target: None,
        unit: "/s",
        of: |round| round.get("endurance.rate"),
    },
    Row {
        what: "… all of it on sale again after the last, 20 s of which it was held",
        target: None,
        unit: "s",
        of: |round| round.get("endurance.back_s"),
    },
    Row {
        what: "… growth of memory in the last 20 minutes",
        target: lower(5.0, 0.0),
        unit: "%",
        of: |round| round.get("endurance.memory_growth_percent"),
    },
    Row {
        what: "… differences found between Redis and the ledger, one comparison a minute",
        target: None,
        unit: "",
        of: |round| round.get("endurance.differences"),
    },
    Row {
        what: "1,000,000 reservations due at once: slowdown of others",
        target: lower(30.0, 10.0),
        unit: "%",
        of: |round| round.get("expiry.slowdown_percent"),
    },
    Row {
        what: "… time until all have expired",
        target: lower(60.0, 20.0),
        unit: "s",
        of: |round| round.get("expiry.s"),
    },
    Row {
        what: "start of `serve` with 1,000,000 live reservations",
        target: lower(5.0, 1.0),
        unit: "s",
        of: |round| round.get("start.s"),
    },
    Row {
        what: "recovery of an emptied Redis with as many",
        target: lower(30.0, 10.0),
        unit: "s",
        of: |round| round.get("emptied.s"),
    },
];

#[cfg(test)]
mod tests {
    use super::{Reached, higher, lower};

    #[test]
    fn a_target_is_reached_from_its_side() {
        let ratio = higher(0.5, 0.7).expect("a target");
        let time = lower(25.0, 10.0).expect("a target");
        assert_eq!(
            [0.7, 0.6, 0.4].map(|figure| ratio.reached(figure)),
            [Reached::Aim, Reached::Least, Reached::Missed]
        );
        assert_eq!(
            [9.0, 25.0, 26.0].map(|figure| time.reached(figure)),
            [Reached::Aim, Reached::Least, Reached::Missed]
        );
    }
}

//! Capacity: what a stream of orders takes in cores, memory, disk and shards, by arithmetic from measured costs.
//!
//! Linear, and so it is: each reservation costs the same in a crowd as the one before it, until some part has no core
//! left; how full a part may be before it queues is the demand's `headroom`. What is not linear (a commit's wait for the
//! disk, a hot row's lock) is spread over a batch, and batches grow with the load. Times are of the machine that
//! [`Costs`] were measured on.
//!
//! Not counted: network, backups, replicas, and what a Postgres with tables far beyond its memory reads again from disk.

mod costs;

use serde::Serialize;

pub use costs::Costs;

/// How long keys are kept.
const KEYS_KEPT_S: f64 = 72.0 * 3_600.0;
/// A SKU at one location: its row and its balance with their indexes, as 200,000 of them took (108 and 323 bytes), and
/// as much again as the balance for its place in the read model.
const SKU_BYTES: f64 = 755.0;

/// What is asked of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// Requests for a reservation a second.
    pub rate: f64,
    /// Share of them that get one, 0 to 1.
    pub accept: f64,
    /// Reads a second.
    pub reads: f64,
    /// How long that goes on, in s.
    pub lasts_s: f64,
    /// How long a sale lasts, in s: its lanes know every reservation until it ends.
    pub sale_s: f64,
    /// How long reservations stay in the hot tier, in s.
    pub hot_s: f64,
    /// SKUs, each at one location.
    pub skus: f64,
    /// Share of a core that is planned to be used, 0 to 1.
    pub headroom: f64,
}

/// What there is to serve it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machines {
    /// Cores for gateways, all together.
    pub gateway_cores: f64,
    /// Nodes of Redis that hold lanes; a node runs its scripts on one core.
    pub redis_nodes: f64,
    /// Cores of the Postgres that is written to.
    pub postgres_cores: f64,
}

/// What the demand takes. Cores are those to plan for, with headroom.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Needs {
    /// Reservations made a second.
    pub accepted_rate: f64,
    /// Cores for gateways.
    pub gateway_cores: f64,
    /// Nodes of Redis.
    pub redis_nodes: f64,
    /// Redis' memory for what the sales of one time know, in bytes, over all nodes.
    pub redis_bytes: f64,
    /// Cores of Postgres.
    pub postgres_cores: f64,
    /// Rows written a second: reservations, events, keys, and versions of reservations that end.
    pub postgres_rows_rate: f64,
    /// Postgres' log, in bytes a second.
    pub wal_rate: f64,
    /// What the ledger grows by for good, in bytes over the demand's time: a reservation, its event and that of its end.
    pub ledger_bytes: f64,
    /// The hot tier: reservations and keys that are still needed at hand, in bytes.
    pub hot_bytes: f64,
    /// The catalogue with its balances and its read model, in bytes.
    pub catalogue_bytes: f64,
}

/// Where a part has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Which part.
    pub part: Part,
    /// The rate of orders that it can serve, of this kind.
    pub rate: f64,
    /// What moves it.
    pub moved_by: &'static str,
}

/// A part of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The gateways.
    Gateways,
    /// Redis.
    Redis,
    /// Postgres.
    Postgres,
}

impl Demand {
    fn accepted(&self) -> f64 {
        self.rate * self.accept
    }

    /// µs of gateways' CPU a second to answer those who ask for reservations, and who read.
    fn asking_us(&self, costs: &Costs) -> f64 {
        let refused = self.rate - self.accepted();
        self.accepted() * costs.gateway_us + refused * costs.sold_out_us + self.reads * costs.read_us
    }

    /// The same with the endings: each reservation has one.
    fn gateway_us(&self, costs: &Costs) -> f64 {
        self.asking_us(costs) + self.accepted() * costs.ending_gateway_us
    }

    fn redis_us(&self, costs: &Costs) -> f64 {
        self.accepted() * costs.redis_us
    }

    /// Orders of this kind that one machine serves a second, with everything on it and all its cores used. `driver_us`:
    /// CPU time of whoever asks, for each, where that runs there too. Endings, which come later, are not counted.
    #[must_use]
    pub fn rate_on(&self, cores: f64, driver_us: f64, costs: &Costs) -> f64 {
        let each = (self.asking_us(costs) + self.redis_us(costs) + self.accepted() * costs.postgres_us) / self.rate;
        cores * 1e6 / (each + driver_us)
    }

    fn postgres_us(&self, costs: &Costs) -> f64 {
        self.accepted() * (costs.postgres_us + costs.ending_postgres_us)
    }

    /// What it takes.
    #[must_use]
    pub fn needs(&self, costs: &Costs) -> Needs {
        let cores = |us: f64| us / 1e6 / self.headroom;
        let accepted = self.accepted();
        Needs {
            accepted_rate: accepted,
            gateway_cores: cores(self.gateway_us(costs)),
            redis_nodes: cores(self.redis_us(costs)).ceil().max(1.0),
            redis_bytes: accepted * self.lasts_s.min(self.sale_s) * costs.redis_bytes,
            postgres_cores: cores(self.postgres_us(costs)),
            postgres_rows_rate: accepted * 5.0,
            wal_rate: accepted * (costs.wal_bytes + costs.ending_wal_bytes),
            ledger_bytes: accepted * self.lasts_s * (costs.reservation_bytes + 2.0 * costs.event_bytes),
            hot_bytes: accepted
                * (self.lasts_s.min(self.hot_s) * costs.reservation_bytes
                    + self.lasts_s.min(KEYS_KEPT_S) * costs.key_bytes),
            catalogue_bytes: self.skus * SKU_BYTES,
        }
    }

    /// How many orders a second each part of these machines can serve, the first to be full first.
    #[must_use]
    pub fn limits(&self, machines: &Machines, costs: &Costs) -> [Limit; 3] {
        let at = |part, us: f64, cores: f64, moved_by| Limit {
            part,
            rate: self.rate * cores * 1e6 * self.headroom / us,
            moved_by,
        };
        let mut limits = [
            at(
                Part::Gateways,
                self.gateway_us(costs),
                machines.gateway_cores,
                "more gateways behind the balancer",
            ),
            at(
                Part::Redis,
                self.redis_us(costs),
                machines.redis_nodes,
                "more nodes, with `migrate --lanes` a multiple of them and more `buckets` a sale",
            ),
            at(
                Part::Postgres,
                self.postgres_us(costs),
                machines.postgres_cores,
                "more cores and a faster log; `queue_max` and Redis' memory bridge a peak",
            ),
        ];
        limits.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        limits
    }

    /// Reservations that wait for the ledger at the end, where these machines carry fewer than are made, and for how long
    /// after it, in s.
    #[must_use]
    pub fn backlog(&self, machines: &Machines, costs: &Costs) -> Backlog {
        let carried = machines.postgres_cores * 1e6 / costs.postgres_us;
        let waiting = ((self.accepted() - carried) * self.lasts_s).max(0.0);
        Backlog {
            waiting,
            drained_after_s: waiting / carried,
        }
    }
}

/// What a peak leaves behind in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    /// Reservations.
    pub waiting: f64,
    /// Until they are in the ledger, in s, where nothing new comes.
    pub drained_after_s: f64,
}

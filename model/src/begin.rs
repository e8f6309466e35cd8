//! Where a search begins.

use crate::config::Config;
use crate::world::{Cache, Cursor, Gateway, Lane, LaneRow, Ledger, Redis, View, World};

impl World {
    /// A sale that has just opened: every lane at epoch 1, adopted by all gateways, the first gateway owns them all.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let lanes = usize::from(config.lanes);
        let lane = |free: &i8| {
            Some(Lane {
                epoch: 1,
                open: true,
                free: *free,
                live: true,
                ..Lane::default()
            })
        };
        let row = |counter: &i8| LaneRow {
            epoch: 1,
            open: true,
            cursor: Cursor {
                epoch: 1,
                seq: 0,
                nonce: 0,
            },
            grant_no: 0,
            owner: Some(0),
            counter: *counter,
            drift: 0,
        };
        let gateway = Gateway {
            lanes: vec![
                View {
                    health: Some(1),
                    epoch: 1,
                    seen: 0,
                    forked: 0
                };
                lanes
            ],
            tasks: vec![None; lanes],
            ..Gateway::default()
        };
        World {
            redis: Redis {
                cache: Cache::Witness,
                lanes: config.units.iter().map(lane).collect(),
            },
            redis_copy: None,
            ledger: Ledger {
                last_epoch: 1,
                lanes: config.units.iter().map(row).collect(),
                rows: vec![],
                grants: vec![],
                ended: false,
                drained: false,
                recalled: 0,
                home: 0,
                beat: 0,
                stalls: vec![],
            },
            ledger_copy: None,
            gateways: vec![gateway; config.gateways.into()],
            calls: vec![],
            waiters: vec![],
            endings: vec![],
            lock: None,
            now: 0,
            next_nonce: 1,
            left: config.bounds,
            fates: vec![],
            lossy: vec![false; lanes],
            flaw: None,
        }
    }
}

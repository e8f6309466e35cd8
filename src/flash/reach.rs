//! Which lanes this gateway can ask, since when it can't, and for which the ledger decides meanwhile.

use std::time::{Duration, Instant};

use fred::types::Value;
use futures::future::join_all;

use super::Flash;
use super::error::FlashError;
use crate::domain::lane::LaneNo;
use crate::domain::outcome::Decision;

impl Flash {
    /// Asks every lane how many reservations wait there for the ledger, all at once, and remembers who did not answer. A
    /// lane that takes no writes can't sell, so it counts as one that does not answer.
    pub async fn reach(&self) -> Vec<(LaneNo, Result<u64, FlashError>)> {
        let ask = async |lane| {
            self.check_writable(lane).await?;
            self.queue_depth(lane).await
        };
        let asked = self.lane_numbers().map(async |lane| (lane, ask(lane).await));
        let heard = join_all(asked).await;
        for (lane, depth) in &heard {
            self.lane(*lane).set_reached(depth.is_ok(), Instant::now());
        }
        heard
    }

    /// For how long the lane has not answered, as far as [`Flash::reach`] has tried.
    #[must_use]
    pub fn away_for(&self, lane: LaneNo) -> Duration {
        self.lane(lane).away_since().map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether the ledger decides for the lane, as far as this gateway knows.
    #[must_use]
    pub fn is_aside(&self, lane: LaneNo) -> bool {
        self.lane(lane).is_aside()
    }

    /// Remembers whether the ledger decides for the lane.
    pub fn set_aside(&self, lane: LaneNo, aside: bool) {
        self.lane(lane).set_aside(aside);
    }

    /// Counts a refusal that the ledger decided in a lane's place.
    pub fn count_refusal(&self, sale_no: i32, decision: &Decision) {
        self.refusals.count(sale_no, decision);
    }

    /// Has the lane's node take a write that changes nothing, and so costs neither memory nor disk: one that is full, can't
    /// save, lacks its replicas or is one answers questions, but can neither sell nor be recovered.
    ///
    /// # Errors
    /// Redis can't be asked, or refuses to write.
    pub async fn check_writable(&self, lane: LaneNo) -> Result<(), FlashError> {
        let probe = Value::from(self.lane(lane).keys.probe());
        self.redis
            .keyed("SETRANGE", vec![probe, "0".into(), "".into()])
            .await
            .map(|_| ())
    }
}

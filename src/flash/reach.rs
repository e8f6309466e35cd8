//! Which lanes this gateway can ask, since when it can't, and for which the ledger decides meanwhile.

use std::time::{Duration, Instant};

use fred::types::Value;
use futures::future::{join_all, try_join};

use super::Flash;
use super::error::FlashError;
use super::queue::first_after;
use super::reply::{array, count};
use crate::domain::lane::LaneNo;
use crate::domain::outcome::Decision;
use crate::domain::time::Millis;

/// What a lane's queue holds that the ledger lacks, as far as the lane has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Reservations.
    pub depth: u64,
    /// The lane's time when the oldest entry was made; none where nothing waits, and while the lane is closed: what is older
    /// than its epoch is for the recovery to find.
    pub since: Option<Millis>,
}

impl Flash {
    /// Asks every lane what waits there for the ledger, all at once, and remembers who did not answer. A lane that takes no
    /// writes can't sell, so it counts as one that does not answer.
    pub async fn reach(&self) -> Vec<(LaneNo, Result<Waiting, FlashError>)> {
        let ask = async |lane| {
            // Together: a beat waits for the slower of the two, and others take who is late for dead.
            let ((), waiting) = try_join(self.check_writable(lane), self.waiting(lane)).await?;
            Ok(waiting)
        };
        let asked = self.lane_numbers().map(async |lane| (lane, ask(lane).await));
        let heard = join_all(asked).await;
        for (lane, waiting) in &heard {
            self.lane(*lane).set_reached(waiting.is_ok(), Instant::now());
        }
        heard
    }

    /// What waits in the lane for the ledger.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn waiting(&self, lane: LaneNo) -> Result<Waiting, FlashError> {
        let keys = &self.lane(lane).keys;
        let mut args = vec![Value::from(keys.meta())];
        args.extend(["total", "done", "epoch", "cursor", "seq"].map(Value::from));
        let values = array(self.redis.keyed("HMGET", args).await?, "a meta")?;
        let values = values.iter().filter(|value| !matches!(value, Value::Null));
        let counts = values.map(count).collect::<Result<Vec<u64>, _>>()?;
        let [total, done, epoch, cursor, seq] = counts[..] else {
            // It was never open.
            return Ok(Waiting::default());
        };
        let since = if seq > cursor {
            first_after(&self.redis, keys, epoch, cursor).await?
        } else {
            None
        };
        Ok(Waiting {
            depth: total.saturating_sub(done),
            since,
        })
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

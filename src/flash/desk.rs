//! The desk where requests wait whose home bucket is dry: the mover brings units from other buckets, or says that
//! there are none.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::soldout::Mark;
use crate::domain::lane::LaneNo;
use crate::domain::sale::Sale;

/// A request that waits for units in its home lane.
#[derive(Debug)]
pub struct DryAsk {
    /// Of which sale.
    pub sale: Arc<Sale>,
    /// Its home.
    pub lane: LaneNo,
    /// Units it wants.
    pub units: u32,
    /// Where the verdict goes.
    pub reply: oneshot::Sender<Verdict>,
}

/// What the mover found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Units came to the home lane: ask it again.
    Retry,
    /// At one instant after the request arrived, all buckets together had only this many, and none were on their way.
    SoldOut {
        /// Units free over all buckets.
        available: i64,
        /// Where the lanes stood at that instant.
        marks: Vec<Mark>,
    },
    /// It could not be found out in time.
    Undecided,
}

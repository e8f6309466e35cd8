//! How the keys of a lane are spelled. All of one lane share a hash tag, so one slot of a cluster, and one script.

use crate::domain::lane::LaneNo;

/// The prefix that binds the keys to one database: `fg:{<namespace>-<lane>}`.
#[derive(Clone, Debug)]
pub(crate) struct LaneKeys {
    prefix: String,
}

impl LaneKeys {
    pub(crate) fn new(namespace: &str, lane: LaneNo) -> Self {
        LaneKeys {
            prefix: format!("fg:{{{namespace}-{lane}}}"),
        }
    }

    /// Hash: epoch, state, seq, nonce, time, total, done, cursor, grant, and `sale:<no>` for each sale present.
    pub(crate) fn meta(&self) -> String {
        format!("{}:meta", self.prefix)
    }

    /// Stream: one entry per call that changed anything.
    pub(crate) fn queue(&self) -> String {
        format!("{}:queue", self.prefix)
    }

    /// Hash: a sale's counter and settings.
    pub(crate) fn sale(&self, sale_no: i32) -> String {
        format!("{}:sale:{sale_no}", self.prefix)
    }

    /// Hash: buyer to record.
    pub(crate) fn buyers(&self, sale_no: i32) -> String {
        format!("{}:buyers:{sale_no}", self.prefix)
    }

    /// Hash: buyer to what is left of the user rate.
    pub(crate) fn rates(&self, sale_no: i32) -> String {
        format!("{}:rates:{sale_no}", self.prefix)
    }

    /// String: nothing; written to see whether the node takes writes.
    pub(crate) fn probe(&self) -> String {
        format!("{}:probe", self.prefix)
    }

    /// Channel: what became durable, and what did not.
    pub(crate) fn notice(&self) -> String {
        format!("{}:notice", self.prefix)
    }

    /// Channel: ids of grants that are in force.
    pub(crate) fn delivered(&self) -> String {
        format!("{}:delivered", self.prefix)
    }

    /// The keys of a sale, as the scripts take them.
    pub(crate) fn of_sale(&self, sale_no: i32) -> [String; 3] {
        [self.sale(sale_no), self.buyers(sale_no), self.rates(sale_no)]
    }
}

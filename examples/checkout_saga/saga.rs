//! What a checkout does next, as a function of its journal alone. So it does the same after a crash as without one.
//!
//! Steps are taken in the order of their [`Flow`]. When one has failed, those that were taken, or may have been, are undone
//! backwards. Nothing here asks anybody: [`crate::shop`] does, and writes down what it heard.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::Entry;

/// Something that is asked of the gateway, the payment service or the order service: five steps, five that undo them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// The gateway holds the units.
    Reserve,
    /// The payment service holds the money.
    Authorise,
    /// The order service takes the order.
    Order,
    /// The gateway sells the units.
    Commit,
    /// The payment service takes the money.
    Capture,
    /// Undoes `reserve`.
    Release,
    /// Undoes `authorise`.
    Void,
    /// Undoes `order`.
    CancelOrder,
    /// Undoes `commit`: sold units come back.
    Return,
    /// Undoes `capture`.
    Refund,
}

/// Which step comes when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flow {
    /// reserve, authorise, order, commit, capture: no money moves before the units are sold.
    StockFirst,
    /// authorise, reserve, order, capture, commit: where the payment service wants to be asked first.
    PayFirst,
}

/// How a checkout can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// The units are sold, the order stands, the money is taken.
    Sold,
    /// The units are nobody's, there is no order, the money is the buyer's.
    Undone,
}

/// What is bought, by whom, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Checkout {
    /// Names this checkout for ever: every key is made of it.
    pub(crate) saga: String,
    pub(crate) order: String,
    pub(crate) user: String,
    pub(crate) sku: String,
    pub(crate) location: String,
    pub(crate) quantity: u32,
    pub(crate) cents: u64,
    pub(crate) ttl_seconds: u32,
    pub(crate) flow: Flow,
}

/// How far a step has got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It may have happened.
    Intended,
    /// It has, and this was the answer.
    Done(Value),
    /// It has not and never will.
    Refused,
    /// It may have happened; nobody waits for the answer any more.
    GivenUp,
}

/// What the journal says of a checkout.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) checkout: Checkout,
    steps: BTreeMap<Step, Standing>,
    /// Once it has ended.
    pub(crate) end: Option<End>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Take(Step),
    End(End),
}

impl Step {
    /// As arguments and tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Reserve => "reserve",
            Step::Authorise => "authorise",
            Step::Order => "order",
            Step::Commit => "commit",
            Step::Capture => "capture",
            Step::Release => "release",
            Step::Void => "void",
            Step::CancelOrder => "cancel-order",
            Step::Return => "return",
            Step::Refund => "refund",
        }
    }

    /// Whether the checkout may go on without knowing what came of it. Only where its undoing also works if it never
    /// happened, or happens later.
    pub(crate) fn can_be_given_up(self) -> bool {
        self == Step::Authorise
    }
}

impl Flow {
    pub(crate) fn steps(self) -> [Step; 5] {
        use Step::{Authorise, Capture, Commit, Order, Reserve};
        match self {
            Flow::StockFirst => [Reserve, Authorise, Order, Commit, Capture],
            Flow::PayFirst => [Authorise, Reserve, Order, Capture, Commit],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Flow::StockFirst => "stock-first",
            Flow::PayFirst => "pay-first",
        }
    }
}

impl Progress {
    pub(crate) fn new(checkout: Checkout) -> Progress {
        Progress {
            checkout,
            steps: BTreeMap::new(),
            end: None,
        }
    }

    /// From the journal; none where it does not say what is bought, so nothing has been done yet.
    pub(crate) fn read(entries: &[Entry]) -> Option<Progress> {
        let (Entry::Begin { checkout }, rest) = entries.split_first()? else {
            return None;
        };
        let mut progress = Progress::new(checkout.clone());
        rest.iter().for_each(|entry| progress.apply(entry));
        Some(progress)
    }

    /// Takes over what has just been written.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        let (step, standing) = match entry {
            Entry::Begin { .. } | Entry::Resumed => return,
            Entry::End { end } => {
                self.end = Some(*end);
                return;
            }
            Entry::Intent { step, .. } => (step, Standing::Intended),
            Entry::Done { step, answer } => (step, Standing::Done(answer.clone())),
            Entry::Refused { step, .. } => (step, Standing::Refused),
            Entry::GivenUp { step, .. } => (step, Standing::GivenUp),
        };
        self.steps.insert(*step, standing);
    }

    pub(crate) fn next(&self) -> Next {
        let flow = self.checkout.flow.steps();
        let failed = |step: &Step| matches!(self.steps.get(step), Some(Standing::Refused | Standing::GivenUp));
        if !flow.iter().any(failed) {
            let next = flow.into_iter().find(|step| !self.is_done(*step));
            return next.map_or(Next::End(End::Sold), Next::Take);
        }
        let mut undoings = flow.into_iter().rev().filter_map(|step| self.undoing(step));
        let next = undoings.find(|undoing| !self.is_done(*undoing));
        next.map_or(Next::End(End::Undone), Next::Take)
    }

    /// What takes a step back; none where there is nothing to take back.
    fn undoing(&self, step: Step) -> Option<Step> {
        match self.steps.get(&step)? {
            Standing::Done(_) | Standing::GivenUp => {}
            Standing::Intended | Standing::Refused => return None,
        }
        match step {
            // What was sold is not held any more; the return brings it back.
            Step::Reserve => (!self.is_done(Step::Commit)).then_some(Step::Release),
            // What was taken is not held any more; the refund gives it back.
            Step::Authorise => (!self.is_done(Step::Capture)).then_some(Step::Void),
            Step::Order => Some(Step::CancelOrder),
            Step::Commit => Some(Step::Return),
            Step::Capture => Some(Step::Refund),
            Step::Release | Step::Void | Step::CancelOrder | Step::Return | Step::Refund => None,
        }
    }

    fn is_done(&self, step: Step) -> bool {
        matches!(self.steps.get(&step), Some(Standing::Done(_)))
    }

    /// Whether the journal says that it was about to be asked for, and not what came of it.
    pub(crate) fn is_intended(&self, step: Step) -> bool {
        self.steps.get(&step) == Some(&Standing::Intended)
    }

    /// The reservation, once there is one.
    pub(crate) fn reservation(&self) -> Option<&str> {
        match self.steps.get(&Step::Reserve)? {
            Standing::Done(answer) => answer["reservationId"].as_str(),
            _ => None,
        }
    }
}

//! What a judge says: what was compared, and each violation with the operations that show it.

use std::fmt;

use serde::Serialize;

/// Most violations of one check that are named: who has more has one fault, many times.
const NAMED_MAX: usize = 100;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Check {
    /// Never more reserved and sold than there was, after each commit.
    C1,
    /// Every durable answer is in the ledger, once.
    C2,
    /// Every accepted one is too, or lost inside a declared window, and told so.
    C3,
    /// One reservation a key.
    C4,
    /// No user has more than the limit.
    C5,
    /// Sold out was answered only where stock may have been empty.
    C6,
    /// Units are conserved in each lane.
    C7,
    /// After healing, nothing is left to catch up with.
    C8,
    /// Each reservation ends once.
    C9,
}

impl Check {
    /// The rule in a few words.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Check::C1 => "never more reserved and sold than there was",
            Check::C2 => "every durable answer is in the ledger, once",
            Check::C3 => "every accepted answer is in the ledger, or declared and told as lost",
            Check::C4 => "one reservation a key",
            Check::C5 => "no user has more than the limit",
            Check::C6 => "sold out only where stock may have been empty",
            Check::C7 => "units are conserved in each lane",
            Check::C8 => "after healing nothing is left to catch up with",
            Check::C9 => "each reservation ends once",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// Where, and how.
    pub what: String,
    /// The operations of the history that show it; none where the ledger alone does.
    pub ops: Vec<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)?;
        if !self.ops.is_empty() {
            write!(f, " (operations {:?})", self.ops)?;
        }
        Ok(())
    }
}

/// What one check looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Which.
    pub check: Check,
    /// Things compared: 0 where the history gave no occasion.
    pub compared: u64,
    /// Violations, those that are not named included.
    pub found: u64,
}

/// What came of it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Of each check, in order.
    pub checked: Vec<Checked>,
    /// In the order of their checks, at most 100 of each.
    pub violations: Vec<Violation>,
}

impl Verdict {
    pub(super) fn of(findings: [Findings; 9]) -> Self {
        let mut verdict = Verdict {
            checked: Vec::with_capacity(findings.len()),
            violations: Vec::new(),
        };
        for mut of in findings {
            verdict.checked.push(of.checked);
            verdict.violations.append(&mut of.violations);
        }
        verdict
    }

    /// Nothing was violated.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

/// What one check has found so far.
#[derive(Debug)]
pub(super) struct Findings {
    checked: Checked,
    violations: Vec<Violation>,
}

impl Findings {
    pub(super) fn new(check: Check) -> Self {
        Findings {
            checked: Checked {
                check,
                compared: 0,
                found: 0,
            },
            violations: Vec::new(),
        }
    }

    /// One more thing was compared.
    pub(super) fn looked(&mut self) {
        self.checked.compared += 1;
    }

    /// Adds a violation; its words and operations are made only where it is named.
    pub(super) fn add(&mut self, tell: impl FnOnce() -> (String, Vec<u64>)) {
        self.checked.found += 1;
        if self.violations.len() < NAMED_MAX {
            let (what, ops) = tell();
            self.violations.push(Violation {
                check: self.checked.check,
                what,
                ops,
            });
        }
    }
}

//! Where a checkout is made to crash: the process kills itself, as a power cut would end it.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use clap::ValueEnum;
use nix::sys::signal::{Signal, raise};

use crate::saga::Step;

/// A moment between two things that a checkout does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The journal says what is bought, and nothing else.
    Begin,
    At(Step, Moment),
}

/// How far the step had got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Its intent is written, it is not asked for.
    Intent,
    /// It is asked for and answered, and the answer is not written.
    Call,
    /// Half of the answer is written.
    Torn,
    /// The answer is written, the next step is not begun.
    Outcome,
}

impl Moment {
    pub(crate) const ALL: [Moment; 4] = [Moment::Intent, Moment::Call, Moment::Torn, Moment::Outcome];

    fn name(self) -> &'static str {
        match self {
            Moment::Intent => "intent",
            Moment::Call => "call",
            Moment::Torn => "torn",
            Moment::Outcome => "outcome",
        }
    }
}

impl Crash {
    /// Ends this process here and now, where `planned` says so.
    pub(crate) fn here(self, planned: Option<Crash>) {
        if planned == Some(self) {
            writeln!(io::stdout(), "   *** killed after {self}").ok();
            // No destructor runs. It fails only for signals that don't exist.
            raise(Signal::SIGKILL).ok();
        }
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Crash::Begin => f.write_str("begin"),
            Crash::At(step, moment) => write!(f, "{}:{}", step.name(), moment.name()),
        }
    }
}

impl FromStr for Crash {
    type Err = String;

    fn from_str(text: &str) -> Result<Crash, String> {
        if text == "begin" {
            return Ok(Crash::Begin);
        }
        let (step, moment) = text.split_once(':').unwrap_or((text, "outcome"));
        let moment = Moment::ALL.into_iter().find(|of| of.name() == moment);
        Ok(Crash::At(
            Step::from_str(step, false)?,
            moment.ok_or("after the colon stands intent, call, torn or outcome")?,
        ))
    }
}

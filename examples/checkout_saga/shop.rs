//! The shop: takes one checkout to its end, in a process of its own, from wherever the journal says that it is.
//!
//! Intent, call, outcome; the process may die between any two of them. An answer that did not come is asked for again,
//! under the same key. Where it does not come at all, the journal waits for the next process; only the authorisation is
//! given up, since voiding it also works when it never happened.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::calls::{Answer, Calls, key};
use crate::crash::{Crash, Moment};
use crate::journal::{Entry, Journal};
use crate::saga::{End, Next, Progress, Step};

/// How often an answer that does not come is asked for.
const TRIES: u32 = 5;
/// How long it may take until something is decided.
const DECIDED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One checkout.
#[derive(Debug, Args)]
pub(crate) struct ShopArgs {
    /// Its journal.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// What is bought, as JSON; not needed where the journal says it.
    #[arg(long)]
    pub(crate) checkout: Option<String>,
    #[arg(long)]
    pub(crate) gateway: String,
    /// Payments and orders.
    #[arg(long)]
    pub(crate) services: String,
    /// How long an answer of theirs is waited for.
    #[arg(long)]
    pub(crate) patience_ms: u64,
    #[arg(long)]
    pub(crate) crash_after: Option<Crash>,
}

/// A checkout under way.
struct Shop {
    journal: Journal,
    progress: Progress,
    calls: Calls,
    crash: Option<Crash>,
}

/// Takes the checkout to its end.
///
/// # Errors
/// It has not ended: somebody did not answer, or would not undo a step. Another process may try again later.
pub(crate) async fn run(args: ShopArgs) -> Result<End, String> {
    let say = |error: io::Error| format!("{}: {error}", args.journal.display());
    let (mut journal, entries) = Journal::open(&args.journal).map_err(say)?;
    let progress = match (Progress::read(&entries), &args.checkout) {
        (Some(progress), _) => {
            journal.append(&Entry::Resumed).map_err(say)?;
            tell("resumed", "from the journal");
            progress
        }
        (None, Some(checkout)) => {
            let checkout = serde_json::from_str(checkout).map_err(|error| format!("--checkout: {error}"))?;
            let progress = Progress::new(checkout);
            let checkout = progress.checkout.clone();
            journal.append(&Entry::Begin { checkout }).map_err(say)?;
            progress
        }
        (None, None) => return Err("the journal is empty, and nothing says what is bought".to_owned()),
    };
    let mut shop = Shop {
        journal,
        progress,
        calls: Calls::new(&args.gateway, &args.services, Duration::from_millis(args.patience_ms))?,
        crash: args.crash_after,
    };
    Crash::Begin.here(shop.crash);
    loop {
        match shop.progress.next() {
            Next::Take(step) => shop.take(step).await?,
            Next::End(end) => {
                if shop.progress.end.is_none() {
                    shop.write(Entry::End { end })?;
                }
                return Ok(end);
            }
        }
    }
}

impl Shop {
    async fn take(&mut self, step: Step) -> Result<(), String> {
        let key = key(&self.progress, step);
        if !self.progress.is_intended(step) {
            self.write(Entry::Intent { step, key })?;
        }
        Crash::At(step, Moment::Intent).here(self.crash);
        let answer = self.insist(step).await;
        Crash::At(step, Moment::Call).here(self.crash);
        let is_undoing = !self.progress.checkout.flow.steps().contains(&step);
        let entry = match answer {
            Answer::Done(answer) => {
                tell(step.name(), &summary(&answer));
                Entry::Done { step, answer }
            }
            Answer::Refused(why) if !is_undoing => {
                tell(step.name(), &format!("refused: {why}; undoing what was done"));
                Entry::Refused { step, why }
            }
            Answer::Unknown(why) if step.can_be_given_up() => {
                tell(
                    step.name(),
                    &format!("given up: {why}; undoing what may have been done"),
                );
                Entry::GivenUp { step, why }
            }
            // The intent stands in the journal, so whoever resumes asks again.
            Answer::Refused(why) => return Err(format!("a person must look: {} refused: {why}", step.name())),
            Answer::Unknown(why) => return Err(format!("not known what came of {}: {why}", step.name())),
            Answer::Pending => return Err(format!("{} is not decided", step.name())),
        };
        let torn = Crash::At(step, Moment::Torn);
        if self.crash == Some(torn) {
            self.journal
                .append_half(&entry)
                .map_err(|error| format!("the journal: {error}"))?;
        }
        torn.here(self.crash);
        self.write(entry)?;
        Crash::At(step, Moment::Outcome).here(self.crash);
        Ok(())
    }

    /// Asks until there is an answer to keep, within bounds.
    async fn insist(&self, step: Step) -> Answer {
        let (since, mut tries) = (Instant::now(), 0);
        loop {
            let answer = self.calls.ask(&self.progress, step).await;
            match &answer {
                Answer::Pending if since.elapsed() < DECIDED_WITHIN => sleep(LOOK_EVERY).await,
                Answer::Unknown(why) if tries + 1 < TRIES => {
                    tell(step.name(), &format!("{why}; asking again, under the same key"));
                    sleep(LOOK_EVERY * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                _ => return answer,
            }
        }
    }

    fn write(&mut self, entry: Entry) -> Result<(), String> {
        self.journal
            .append(&entry)
            .map_err(|error| format!("the journal: {error}"))?;
        self.progress.apply(&entry);
        Ok(())
    }
}

fn summary(answer: &Value) -> String {
    let word = |name: &str| answer[name].as_str();
    let returned = word("returnId").map(|_| "RETURNED");
    let status = word("status").or(returned).unwrap_or("done");
    let ack = word("ack").map(|ack| format!(", {ack}")).unwrap_or_default();
    let rescued = if answer["rescued"] == true {
        ", its units taken again after it had expired"
    } else {
        ""
    };
    format!("{status}{ack}{rescued}")
}

/// A line of the story; whoever started us may not listen.
fn tell(what: &str, how: &str) {
    writeln!(io::stdout(), "   {what:<13} {how}").ok();
}

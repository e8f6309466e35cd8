//! One buyer's journey against flashgate, as a goose program: look at the item,
//! reserve under an idempotency key, then pay, let go, or walk away.
//!
//! It guarantees that a run never ends green on answers alone: whatever the
//! answers were, `flashgate verify` recomputes the ledger afterwards, and the exit
//! code is 1 where that fails, where an answer came that the contract does not
//! foresee, or where too many buyers had to give up. The same journey stands in
//! `k6/journey.ts`; `vectors.json` holds both to the same rules. Rates, users and
//! run time are goose's own options; the item and the buyers come from the
//! environment (`settings`).

#![warn(missing_docs, unreachable_pub)]

mod journey;
mod outcome;
mod plan;
mod retry;
mod settings;
mod tally;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use goose::prelude::*;

use crate::journey::Run;
use crate::settings::Settings;

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(load_and_verify()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The exit code says it too, where even stderr is gone.
            let _ = writeln!(io::stderr(), "loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the load, then verifies the ledger; whether both are as they should be.
async fn load_and_verify() -> Result<bool, Box<dyn std::error::Error>> {
    let settings = Settings::from_env()?;
    let failed_max = settings.failed_max;
    let verifier = settings.verifier.clone();
    let base_url = settings.base_url.clone();
    let run = Arc::new(Run::new(settings));

    let attack = GooseAttack::initialize()?
        .set_default(GooseDefault::Host, base_url.as_str())?
        .register_scenario(scenario!("buyer").register_transaction(journey_of(run.clone())));
    // Boxed: goose's future is large.
    let attacked = Box::pin(attack.execute()).await;

    let mut out = io::stdout();
    let loaded = match attacked {
        Ok(_) => true,
        // A goose threshold that failed comes this way too; the ledger is verified all the same.
        Err(error) => {
            writeln!(out, "FAIL goose: {error:?}")?;
            false
        }
    };
    let failed = run.tally.failed_share();
    let answered = run.tally.errors() == 0 && failed < failed_max;
    writeln!(
        out,
        "{} answers: {} not foreseen, {:.3} % of buyers failed (below {:.3} % is asked)",
        word(answered),
        run.tally.errors(),
        failed * 100.0,
        failed_max * 100.0,
    )?;
    let verified = verify::run(&verifier)?;
    writeln!(out, "{} {} verify", word(verified), verifier.display())?;
    writeln!(out, "{}", run.tally.summary())?;
    Ok(loaded && answered && verified)
}

fn word(ok: bool) -> &'static str {
    if ok { "ok  " } else { "FAIL" }
}

fn journey_of(run: Arc<Run>) -> Transaction {
    let function: TransactionFunction = Arc::new(move |user| {
        let run = run.clone();
        Box::pin(async move { journey::buyer(user, &run).await })
    });
    Transaction::new(function).set_name("journey")
}

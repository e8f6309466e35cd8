//! `replay`: what a SKU or an order was at an instant, as a table or as JSON.
//!
//! Exit 0: told; 1: told, and the ledger contradicts itself; 2: it could not be found out, or not yet.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::AppError;
use crate::config;
use crate::dev;
use crate::ledger::replay::{Replay, Replayed, Subject};
use crate::ledger::{self, Ledger};

/// The ledger contradicts itself.
const BROKEN: u8 = 1;
/// It could not be found out.
const UNKNOWN: u8 = 2;
/// Longest time of the one statement that reads a hot SKU's events of years.
const STATEMENT_MAX: Duration = Duration::from_secs(3_600);

pub(super) async fn run(command: config::Replay) -> io::Result<ExitCode> {
    let url = command
        .database_url
        .clone()
        .or_else(|| dev::addresses(&command.data).map(|(_, database_url)| database_url));
    let Some(url) = url else {
        let data = command.data.display();
        tracing::error!("no `flashgate dev` runs on {data}: name --database-url, or --data");
        return Ok(ExitCode::from(UNKNOWN));
    };
    match replay(&command, &url).await {
        Ok(replayed) => {
            let mut out = io::stdout();
            if command.json {
                writeln!(out, "{}", serde_json::to_string_pretty(&replayed)?)?;
            } else {
                show(&mut out, &replayed)?;
            }
            out.flush()?;
            Ok(ExitCode::from(if replayed.breaks.is_empty() { 0 } else { BROKEN }))
        }
        Err(error) => {
            tracing::error!("it could not be found out: {error}");
            Ok(ExitCode::from(UNKNOWN))
        }
    }
}

async fn replay(command: &config::Replay, url: &str) -> Result<Replayed, AppError> {
    let ledger = Ledger::new(&ledger::Settings {
        statement_timeout: STATEMENT_MAX,
        ..ledger::Settings::new(url)
    })?;
    let subject = match (&command.sku, &command.order) {
        (Some(sku), _) => Subject::Stock(sku.clone(), command.location.clone()),
        (None, Some(order)) => Subject::Order(order.clone()),
        (None, None) => return Err(AppError::Setting("--sku", "or --order must be named".to_owned())),
    };
    let replay = ledger.replay(&subject, command.at).await?;
    ledger.close().await;
    match replay {
        Replay::Told(replayed) => Ok(replayed),
        Replay::NotYet(now) => {
            let why = format!("lies ahead: by the ledger's clock it is {now}");
            Err(AppError::Setting("--at", why))
        }
        Replay::Unsettled => {
            let why = "a transaction that was under way then has not ended, and may still add to it; try again later, or \
                       name an earlier instant";
            Err(AppError::Setting("--at", why.to_owned()))
        }
    }
}

fn show(out: &mut impl Write, replayed: &Replayed) -> io::Result<()> {
    writeln!(out, "{} events up to {}", replayed.events, replayed.at)?;
    if !replayed.stock.is_empty() {
        writeln!(
            out,
            "{:<20} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>11}  last event",
            "location", "onHand", "reserved", "unavailable", "escrowed", "sold", "damaged", "returned", "safetyStock"
        )?;
    }
    for then in &replayed.stock {
        let is = &then.balance;
        writeln!(
            out,
            "{:<20} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>11}  {} at {}",
            then.location_id,
            is.on_hand,
            is.reserved,
            is.unavailable,
            is.escrowed,
            is.sold,
            is.damaged,
            is.returned,
            then.safety_stock,
            then.event_id,
            then.since
        )?;
    }
    for then in &replayed.reservations {
        writeln!(
            out,
            "{} {} at {}: reserved {}, sold {}, returned {}; {} (event {} at {})",
            then.reservation_id,
            then.sku_id,
            then.location_id,
            then.reserved,
            then.sold,
            then.returned,
            then.last,
            then.event_id,
            then.since
        )?;
    }
    for broken in &replayed.breaks {
        writeln!(
            out,
            "event {} begins with {:?}, but the events before it add up to {:?}",
            broken.event_id, broken.before, broken.sum
        )?;
    }
    Ok(())
}

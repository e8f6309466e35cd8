//! From listening to serving: waits for a Postgres with our schema, then connects the live stock and starts the workers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Settings;
use crate::clock::Clock;
use crate::config::Role;
use crate::flash::{self, Flash, FlashError};
use crate::health::{Stage, Standing};
use crate::http::Gateway;
use crate::ledger::LedgerError;
use crate::worker::{self, Context, Roles};

/// Between two questions while Postgres is not ready.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Longest time for an answer, before Postgres counts as away.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Brings a gateway up. Returns its workers; none where it was stopped before.
///
/// # Errors
/// Redis' address can't be read.
pub(super) async fn run(
    settings: &Settings,
    gateway: &Arc<Gateway>,
    id: Uuid,
    stop: &CancellationToken,
) -> Result<Option<TaskTracker>, FlashError> {
    let Some(deployment) = stop.run_until_cancelled(deployment(gateway)).await else {
        return Ok(None);
    };
    let clock = Arc::new(Clock::new());
    let flash = Flash::start(settings.flash.clone(), &deployment, Arc::clone(&clock), id)?;
    let context = Context {
        ledger: gateway.ledger.clone(),
        flash: flash.clone(),
        clock,
        health: Arc::clone(&gateway.health),
        stop: stop.clone(),
        gateway: id,
        name: name(),
    };
    gateway.flash.set(flash);
    gateway.health.change(|state| state.stage = Stage::Serving);
    Ok(Some(worker::start(&context, roles(&settings.roles))))
}

/// What the database says of itself, as soon as it can.
async fn deployment(gateway: &Gateway) -> flash::Deployment {
    loop {
        let asked = tokio::time::timeout(ANSWER_MAX, ask(gateway)).await;
        let standing = match asked {
            Ok(Ok(Some(deployment))) => return deployment,
            Ok(Ok(None)) => Standing::Away("its schema is not up to date: run `flashgate migrate`".to_owned()),
            Ok(Err(error)) => Standing::Away(error.to_string()),
            Err(_) => Standing::Away(format!("no answer within {} s", ANSWER_MAX.as_secs())),
        };
        gateway.health.change(|state| state.postgres = standing);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn ask(gateway: &Gateway) -> Result<Option<flash::Deployment>, LedgerError> {
    if !gateway.ledger.is_migrated().await? {
        return Ok(None);
    }
    let found = gateway.ledger.deployment().await?;
    Ok(Some(flash::Deployment {
        namespace: found.namespace,
        lanes: found.lanes,
        id_key: found.id_key,
    }))
}

fn roles(roles: &[Role]) -> Roles {
    Roles {
        writer: roles.contains(&Role::Writer),
        granter: roles.contains(&Role::Granter),
        expiry: roles.contains(&Role::Expiry),
        relay: roles.contains(&Role::Relay),
        reconcile: roles.contains(&Role::Reconcile),
    }
}

/// What people call this process: its host and process id.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "gateway" } else { host.trim() };
    format!("{host}-{}", std::process::id())
}

//! The live stock, without being a gateway: for whoever compares or looks, and serves nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::VerifyError;
use crate::clock::Clock;
use crate::flash::{Deployment, Flash, FlashError, Settings};
use crate::ledger::Ledger;

/// Longest wait for Redis.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Connects to the live stock at this address that belongs to this ledger.
///
/// # Errors
/// Either can't be reached, or the address can't be read.
pub async fn flash_beside(ledger: &Ledger, redis_url: &str) -> Result<Flash, VerifyError> {
    let found = ledger.deployment().await?;
    let clock = Arc::new(Clock::new());
    let asked = Instant::now();
    clock.measure(ledger.now().await?, asked, asked.elapsed());
    let deployment = Deployment {
        namespace: found.namespace,
        lanes: found.lanes,
        id_key: found.id_key,
    };
    let flash = Flash::start(Settings::new(redis_url), &deployment, clock, Uuid::new_v4())?;
    let deadline = Instant::now() + CONNECT_WITHIN;
    while !flash.is_complete() {
        if Instant::now() > deadline {
            // Lanes that are left to the ledger have nothing in Redis that counts.
            if ledger.lanes().await?.iter().any(|lane| lane.fallback) {
                break;
            }
            return Err(FlashError::Unavailable("not connected".into()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(flash)
}

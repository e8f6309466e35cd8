//! Verification and reconciliation: both halves agree while they work, and every fault that is planted is found, named
//! at its place, and repaired where that is Redis.

mod altered;
mod broken;
mod clock;
mod drift;
mod fair;
mod freezing;
mod halves;
mod ledger;
mod parting;
mod planted;
mod repair;
mod scheduled;
mod sound;
mod tamper;

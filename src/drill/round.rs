//! A round: sales, clients, a fault, healing, rest, judgement.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::DrillError;
use super::check::{self, Bounds};
use super::fault::{Fault, Scene, Wound};
use super::heal;
use super::history::{self, History, Line, Moment, Recorder, Stopwatch};
use super::load::{self, Load};
use super::report::Told;
use super::shop;
use super::stack::Stack;
use super::web::Web;
use crate::ledger::{self, Ledger};
use crate::worker::verify::{flash_beside, verify};

const CLIENTS: u32 = 16;
const CLIENTS_SHORT: u32 = 8;

/// A stack, and what its clients have seen since it was started.
#[derive(Debug)]
pub(super) struct Session {
    stack: Stack,
    web: Arc<Web>,
    ledger: Ledger,
    dir: PathBuf,
    /// Its files outlive it.
    keep: bool,
}

impl Session {
    /// Starts a stack in this directory.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn start(dir: &Path, seed: u64, small_disk: bool, keep: bool) -> Result<Session, DrillError> {
        let stack = Stack::start(dir, seed, small_disk).await?;
        let ledger = Ledger::new(&ledger::Settings::new(&stack.postgres_url()))?;
        let stopwatch = Stopwatch::start(ledger.now().await?);
        let recorder = Recorder::create(&history(dir))?;
        let addresses = stack.gateways.iter().map(|gateway| gateway.addresses());
        let web = Arc::new(Web::new(addresses.collect(), recorder, stopwatch)?);
        let session = Session {
            stack,
            web,
            ledger,
            dir: dir.to_path_buf(),
            keep,
        };
        session.until_whole().await?;
        Ok(session)
    }

    /// Whether this fault can strike here.
    pub(super) fn suits(&self, fault: Fault) -> bool {
        self.stack.small_disk.is_some() == fault.needs_small_disk()
    }

    /// Ends the stack, and removes its files unless they are to be kept.
    pub(super) fn end(self) {
        let (dir, keep) = (self.dir.clone(), self.keep);
        // It may lie elsewhere, where its user can reach it.
        let postgres = self.stack.postgres.data();
        super::stack::blocking(|| {
            let postgres = postgres.canonicalize();
            drop(self);
            if keep {
                return;
            }
            // What can't be removed lies where the end of the drill says.
            std::fs::remove_dir_all(dir).ok();
            if let Some(place) = postgres.as_deref().ok().and_then(Path::parent) {
                std::fs::remove_dir_all(place).ok();
            }
        });
    }

    /// One round.
    ///
    /// # Errors
    /// It could not be played to its end.
    pub(super) async fn round(&mut self, fault: Fault, round: u32, seed: u64, short: bool) -> Result<Told, DrillError> {
        let mut chance = StdRng::seed_from_u64(seed);
        let shelves: Arc<[_]> = shop::shelves(round)?.into();
        let began = self.web.now();
        shop::open(&self.web, &shelves).await?;
        let clients = if short { CLIENTS_SHORT } else { CLIENTS };
        let load = Load::start(&self.web, &shelves, round, clients, seed);
        let (least, most) = if short { (600, 1_500) } else { (1_500, 5_000) };
        wait(&mut chance, least, most).await;

        let parts = fault.parts(&mut chance);
        let from = self.web.now();
        let to = self.strike(&parts, &mut chance, &shelves[2]).await?;
        for part in &parts {
            self.web.write(&Line::Fault(history::Fault {
                fault: part.as_str().to_owned(),
                round,
                from,
                to,
                loses: part.loses(),
            }))?;
        }
        let healed = heal::until_healed(&self.web, &self.stack, round).await?;
        let mut wrong = Vec::new();
        match healed {
            None => wrong.push(format!(
                "it did not serve again within {} s",
                heal::HEALS_WITHIN.as_secs()
            )),
            Some(healed) if !heal::until_going_on(&self.web, healed.healed).await => {
                wrong.push("no reservation became durable after it had healed".to_owned());
            }
            Some(_) => wait(&mut chance, least, most).await,
        }
        let undurable = load.leave().await?;
        heal::until_settled(&self.web, &self.stack, round).await?;
        load::look_again(&self.web, &undurable).await?;
        self.stack.restore().await?;
        self.until_whole().await?;

        wrong.extend(self.compare().await?);
        self.web.flush()?;
        let account = self.ledger.account().await?;
        let told = super::stack::blocking(|| {
            let history = History::open(&history(&self.dir))?;
            let verdict = check::judge(&history, &account, &Bounds::default());
            let told = Told::new(&history, &parts, [began, from, to], healed, wrong);
            Ok::<_, DrillError>(told.judged(&verdict))
        })?;
        shop::close(&self.web, &shelves).await?;
        Ok(told)
    }

    /// Breaks all parts at once, waits, mends them. Returns when that was done.
    async fn strike(
        &mut self,
        parts: &[Fault],
        chance: &mut StdRng,
        shelf: &shop::Shelf,
    ) -> Result<Moment, DrillError> {
        let mut wounds: Vec<Wound> = Vec::new();
        let mut lasts = Duration::ZERO;
        for part in parts {
            let mut scene = Scene {
                stack: &mut self.stack,
                ledger: &self.ledger,
                chance,
                shelf,
            };
            wounds.push(part.strike(&mut scene).await?);
            lasts = lasts.max(part.lasts(chance));
        }
        if wounds.iter().any(Wound::is_open) {
            tokio::time::sleep(lasts).await;
        }
        for wound in wounds {
            wound.mend(&mut self.stack)?;
        }
        Ok(self.web.now())
    }

    /// Compares everything with everything; what disagrees.
    async fn compare(&self) -> Result<Vec<String>, DrillError> {
        let flash = flash_beside(&self.ledger, &self.stack.redis.url()).await?;
        let report = verify(&self.ledger, &flash).await?;
        flash.quit().await;
        let differences = report.differences.iter().map(|found| format!("verify: {found}"));
        let undecided = report.undecided.iter().map(|what| format!("verify: undecided: {what}"));
        Ok(differences.chain(undecided).collect())
    }

    /// Waits until every gateway serves.
    async fn until_whole(&self) -> Result<(), DrillError> {
        match heal::until_serving(&self.web, &self.stack).await {
            true => Ok(()),
            false => Err(DrillError::Stack("the stack does not serve".to_owned())),
        }
    }
}

fn history(dir: &Path) -> PathBuf {
    dir.join("history.jsonl")
}

async fn wait(chance: &mut StdRng, least_ms: u64, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(chance.random_range(least_ms..most_ms))).await;
}

//! Runs a transaction of the writer again where that helps: after a meeting with another one, with a partition that was
//! missing, or without the reservations that Postgres can't store.
//!
//! Those are found by halving: a probe carries only some of the reservations and is rolled back. Whoever fails alone is
//! bad. More than [`Trial::poison_max`] bad ones are not bad luck but a fault of ours or of the tables, and stop the lane
//! rather than fill the quarantine.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::ledger::{Ledger, LedgerError};

/// Most reservations of one batch that may be put aside.
pub(in crate::ledger) const POISON_MAX: usize = 8;
/// Most attempts at a transaction that met another one. Locks are taken in one order, so two are nearly always enough.
const RETRIES_MAX: u32 = 5;
/// Pause before the second attempt; it grows with each.
const PAUSE: Duration = Duration::from_millis(5);

/// Reservations that Postgres can't store, and why.
pub(in crate::ledger) type Poison = BTreeMap<Uuid, String>;

/// A transaction that can be run without some of its reservations.
pub(in crate::ledger) trait Trial {
    /// What comes of it.
    type Answer;

    /// Ids and times of the reservations that may be at fault.
    fn ids(&self) -> Vec<(Uuid, DateTime<Utc>)>;

    /// Most of `all` reservations that may be put aside.
    fn poison_max(&self, _all: usize) -> usize {
        POISON_MAX
    }

    /// The answer where at least `bad` reservations can't be stored, which is too many.
    fn poisoned(&self, bad: usize, error: LedgerError) -> Result<Self::Answer, LedgerError>;

    /// Runs it; with `only`, as a probe: with these reservations alone, and rolled back.
    async fn attempt(
        &self,
        ledger: &Ledger,
        poison: &Poison,
        only: Option<&HashSet<Uuid>>,
    ) -> Result<Self::Answer, LedgerError>;
}

enum Found {
    Bad(Poison),
    TooMany(usize),
}

impl Ledger {
    /// Runs `trial` until it succeeds, or fails for a reason that running it again does not cure.
    pub(in crate::ledger) async fn cured<T: Trial>(&self, trial: &T) -> Result<T::Answer, LedgerError> {
        let mut poison = Poison::new();
        let (mut retries, mut days_made) = (0, false);
        loop {
            let error = match trial.attempt(self, &poison, None).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if matches!(error, LedgerError::Retry(_)) && retries < RETRIES_MAX {
                retries += 1;
                tokio::time::sleep(PAUSE * retries).await;
            } else if error.is_missing_partition() && !days_made {
                self.make_days(trial).await?;
                days_made = true;
            } else if matches!(error, LedgerError::Data { .. }) && poison.is_empty() {
                match self.find_poison(trial).await? {
                    Found::Bad(bad) if bad.is_empty() => return Err(error),
                    Found::Bad(bad) => poison = bad,
                    Found::TooMany(bad) => return trial.poisoned(bad, error),
                }
            } else {
                return Err(error);
            }
        }
    }

    /// Makes the partitions of the reservations' days, and of today for the events.
    async fn make_days<T: Trial>(&self, trial: &T) -> Result<(), LedgerError> {
        let mut days: Vec<DateTime<Utc>> = trial.ids().into_iter().map(|(_, at)| at).collect();
        days.sort_unstable();
        days.dedup_by_key(|at| at.date_naive());
        sqlx::query(
            "-- apply.days: a time that makes no sense is not stored, so it needs no partition
             SELECT ensure_day(at) FROM (SELECT clock_timestamp() AS at UNION ALL SELECT * FROM UNNEST($1::timestamptz[])) d
             WHERE at BETWEEN clock_timestamp() - interval '366 days' AND clock_timestamp() + interval '1 day'",
        )
        .bind(&days)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn find_poison<T: Trial>(&self, trial: &T) -> Result<Found, LedgerError> {
        let ids: Vec<Uuid> = trial.ids().into_iter().map(|(id, _)| id).collect();
        let mut groups: Vec<&[Uuid]> = vec![&ids];
        let most = trial.poison_max(ids.len());
        let mut bad = Poison::new();
        while let Some(group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let Some(cause) = self.probe(trial, group).await? else {
                continue;
            };
            if let [id] = group {
                bad.insert(*id, cause);
                if bad.len() > most {
                    return Ok(Found::TooMany(bad.len()));
                }
            } else {
                let (left, right) = group.split_at(group.len() / 2);
                groups.extend([right, left]);
            }
        }
        Ok(Found::Bad(bad))
    }

    /// Why these reservations can't be stored, if they can't.
    async fn probe<T: Trial>(&self, trial: &T, group: &[Uuid]) -> Result<Option<String>, LedgerError> {
        let only: HashSet<Uuid> = group.iter().copied().collect();
        for retry in 1..=RETRIES_MAX {
            match trial.attempt(self, &Poison::new(), Some(&only)).await {
                Ok(_) => return Ok(None),
                Err(LedgerError::Data { constraint, source }) => return Ok(Some(format!("{constraint}: {source}"))),
                Err(LedgerError::Retry(_)) if retry < RETRIES_MAX => tokio::time::sleep(PAUSE * retry).await,
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }
}

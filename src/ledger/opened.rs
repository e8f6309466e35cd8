//! A transaction that is begun before it is known what it will carry: one round trip less when it is.

use std::time::{Duration, Instant};

use sqlx::{Postgres, Transaction};

use super::{Ledger, LedgerError};

/// One that was opened so long ago is not used: Postgres may have ended it by now, for it stands idle, and nobody would
/// have told.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// An open transaction, and since when; [`Opened::default`] is none.
#[derive(Debug, Default)]
pub struct Opened(Option<(Transaction<'static, Postgres>, Instant)>);

impl Ledger {
    /// Begins a transaction for a batch that is about to come. Where that fails, the batch begins one and tells why.
    pub async fn open(&self) -> Opened {
        Opened(self.begin().await.ok().map(|tx| (tx, Instant::now())))
    }

    pub(super) async fn begin_with(&self, opened: Opened) -> Result<Transaction<'static, Postgres>, LedgerError> {
        match opened.0.filter(|(_, since)| since.elapsed() < FRESH_FOR) {
            Some((tx, _)) => Ok(tx),
            None => self.begin().await,
        }
    }
}

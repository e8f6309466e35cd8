//! When the next batch of the same kind may begin, and the transaction it begins with.

use sqlx::{Postgres, Transaction};
use tokio::sync::OwnedSemaphorePermit;

/// The right to run: held until it is passed on, or dropped. [`Turn::default`] keeps nobody waiting.
#[derive(Debug, Default)]
pub struct Turn(Option<OwnedSemaphorePermit>);

impl Turn {
    /// Lets the next one begin: of this batch, all is done but the wait for the disk.
    pub fn pass(&mut self) {
        self.0 = None;
    }
}

impl From<OwnedSemaphorePermit> for Turn {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Turn(Some(permit))
    }
}

/// A transaction that was begun while its batch waited for its turn; [`Opened::default`] is none.
#[derive(Debug, Default)]
pub struct Opened(pub(super) Option<Transaction<'static, Postgres>>);

//! A transaction that is begun before it is known what it will carry: one round trip less when it is.

use sqlx::{Postgres, Transaction};

/// An open transaction; [`Opened::default`] is none.
#[derive(Debug, Default)]
pub struct Opened(pub(super) Option<Transaction<'static, Postgres>>);

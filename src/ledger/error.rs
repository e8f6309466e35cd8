//! What can keep the ledger from answering.

/// The ledger could not find out, or refused by one of its constraints.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Postgres is away, too slow or out of connections; nothing is known about a commit in flight.
    #[error("postgres is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Two transactions met (deadlock, serialization, lock timeout); trying again is safe.
    #[error("postgres asks to try again: {0}")]
    Retry(#[source] sqlx::Error),
    /// The data was refused (SQLSTATE 22 or 23).
    #[error("postgres refused the data ({constraint}): {source}")]
    Data {
        /// The constraint's name, else the SQLSTATE.
        constraint: String,
        /// What Postgres said.
        #[source]
        source: sqlx::Error,
    },
    /// A row does not mean what it must, or a statement is wrong: a defect.
    #[error("the ledger is not as expected: {0}")]
    Broken(String),
}

impl LedgerError {
    /// The row found no partition for its day. Postgres reports it like a violated CHECK, without a name.
    #[must_use]
    pub fn is_missing_partition(&self) -> bool {
        match self {
            LedgerError::Data {
                source: sqlx::Error::Database(e),
                ..
            } => e.code().as_deref() == Some("23514") && e.constraint().is_none(),
            _ => false,
        }
    }

    /// The statement took longer than it may, or somebody canceled it.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        matches!(self, LedgerError::Unavailable(sqlx::Error::Database(e)) if e.code().as_deref() == Some("57014"))
    }

    /// The constraint of this name was violated.
    #[must_use]
    pub fn is_constraint(&self, name: &str) -> bool {
        matches!(self, LedgerError::Data { constraint, .. } if constraint == name)
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => LedgerError::Unavailable(error),
                other => LedgerError::Broken(other.to_string()),
            };
        };
        let code = database.code().unwrap_or_default().into_owned();
        let constraint = database.constraint().unwrap_or(&code).to_owned();
        match code.as_str() {
            "40001" | "40P01" | "55P03" => LedgerError::Retry(error),
            _ => match code.get(..2) {
                Some("22" | "23") => LedgerError::Data {
                    constraint,
                    source: error,
                },
                // connection, resources, operator intervention (shutdown, statement timeout), system error
                Some("08" | "53" | "57" | "58") => LedgerError::Unavailable(error),
                // read-only transaction: a standby, or a primary that was demoted
                Some("25") => LedgerError::Unavailable(error),
                _ => LedgerError::Broken(error.to_string()),
            },
        }
    }
}

/// What came of a step that concerns one sale of several.
pub trait OfOneSale<T> {
    /// Nothing, where it failed for something of this sale alone: that is logged and left to the next run, for the
    /// other sales must not wait for it.
    ///
    /// # Errors
    /// Postgres is unavailable: the others would fail as well.
    fn of_one_sale(self, sale_no: i32, step: &'static str) -> Result<Option<T>, LedgerError>;
}

impl<T> OfOneSale<T> for Result<T, LedgerError> {
    fn of_one_sale(self, sale_no: i32, step: &'static str) -> Result<Option<T>, LedgerError> {
        match self {
            Ok(done) => Ok(Some(done)),
            Err(error @ LedgerError::Unavailable(_)) if !error.is_canceled() => Err(error),
            Err(error) => {
                tracing::error!(sale_no, step, %error, "a sale's step failed; the other sales go on");
                Ok(None)
            }
        }
    }
}

//! A connection to Postgres, and a transaction over one: no answer is waited for without an end.
//!
//! Where the other side goes away without a word (a host that loses its power, an address that moves to another, a NAT
//! that forgets) nothing ever comes of a read, and sqlx has no way to let the kernel ask. But Postgres ends a statement
//! that takes too long. So one that has not answered a while after that is not waited for any more. A commit may still
//! go on then, for as long as it waits for a standby; what is not known of it is as after any answer that was lost.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, StreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTransactionManager, PgTypeInfo};
use sqlx::{Connection as _, Describe, Either, Error, Execute, Executor, Postgres, TransactionManager as _};
use tokio::time::{sleep, timeout};

use super::connections::Connections;

/// A connection. [Kept](Self::keep), it lies ready for the next; dropped, it goes through the pool, and where its answer
/// did not come it is closed.
pub(in crate::ledger) struct Connection {
    /// There until it is kept, detached or closed.
    inner: Option<Inner>,
    left_pool: Instant,
    /// The longest wait for an answer.
    answer_within: Duration,
    /// Dropped now, it is closed.
    in_doubt: bool,
    of: Connections,
}

enum Inner {
    Pooled(PoolConnection<Postgres>),
    /// The pool knows nothing of it.
    Apart(PgConnection),
}

const THERE: &str = "a connection that is used has neither been kept nor closed";

impl Connection {
    pub(super) fn new(connection: PoolConnection<Postgres>, left_pool: Instant, of: Connections) -> Self {
        Connection {
            inner: Some(Inner::Pooled(connection)),
            left_pool,
            answer_within: of.answer_within(None),
            in_doubt: false,
            of,
        }
    }

    /// Lays it aside. Only outside a transaction, and after an answer that was read to its end.
    pub(in crate::ledger) fn keep(mut self) {
        if let Some(Inner::Pooled(connection)) = self.inner.take() {
            self.of.lay_aside(connection, self.left_pool);
        }
    }

    /// From now on it is closed when it is dropped, for its answer may never come; until it is [trusted](Self::trust).
    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// It has answered.
    pub(super) fn trust(&mut self) {
        self.in_doubt = false;
    }

    /// The same connection, which the pool forgets: no other work rides on it, and its session ends with it.
    pub(in crate::ledger) fn detach(mut self) -> Self {
        if let Some(Inner::Pooled(connection)) = self.inner.take() {
            self.inner = Some(Inner::Apart(connection.detach()));
        }
        self
    }

    /// Says goodbye, as far as anybody listens.
    pub(in crate::ledger) async fn close(mut self) {
        let within = self.answer_within;
        let closed = match self.inner.take().expect(THERE) {
            Inner::Pooled(connection) => timeout(within, connection.close()).await,
            Inner::Apart(connection) => timeout(within, connection.close()).await,
        };
        if let Ok(Err(error)) = closed {
            tracing::debug!(%error, "a connection ended without a goodbye");
        }
    }

    /// Lets each statement of the transaction that is under way take so long.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub(in crate::ledger) async fn allow(&mut self, statement_timeout: Duration) -> Result<(), Error> {
        let ms = statement_timeout.as_millis();
        sqlx::query(&format!("-- tx.allow\n SET LOCAL statement_timeout = {ms}"))
            .execute(&mut *self)
            .await?;
        // The commit is under no such limit.
        self.answer_within = self.answer_within.max(self.of.answer_within(Some(statement_timeout)));
        Ok(())
    }

    pub(super) async fn ping(&mut self) -> Result<(), Error> {
        self.raw().ping().await
    }

    /// Opens a transaction over it. Dropped before its end, it is rolled back.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub(in crate::ledger) async fn begin(&mut self) -> Result<(), Error> {
        // Between a `BEGIN` and its answer the pool would hand out a transaction that nobody ends.
        self.in_doubt = true;
        let Connection { inner, in_doubt, .. } = self;
        in_time(
            self.answer_within,
            in_doubt,
            PgTransactionManager::begin(raw(inner), None),
        )
        .await?;
        self.in_doubt = false;
        Ok(())
    }

    /// # Errors
    /// Postgres refused, or it is not known what became of it.
    pub(in crate::ledger) async fn commit(&mut self) -> Result<(), Error> {
        let Connection { inner, in_doubt, .. } = self;
        in_time(self.answer_within, in_doubt, PgTransactionManager::commit(raw(inner))).await
    }

    /// # Errors
    /// Postgres could not be told; it will find out.
    pub(in crate::ledger) async fn rollback(&mut self) -> Result<(), Error> {
        let Connection { inner, in_doubt, .. } = self;
        in_time(self.answer_within, in_doubt, PgTransactionManager::rollback(raw(inner))).await
    }

    /// The connection as sqlx has it, whose answers may be long in coming.
    pub(in crate::ledger) fn raw(&mut self) -> &mut PgConnection {
        raw(&mut self.inner)
    }
}

fn raw(inner: &mut Option<Inner>) -> &mut PgConnection {
    match inner.as_mut().expect(THERE) {
        Inner::Pooled(connection) => connection,
        Inner::Apart(connection) => connection,
    }
}

async fn in_time<T>(
    within: Duration,
    in_doubt: &mut bool,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match timeout(within, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            *in_doubt = true;
            Err(silent())
        }
    }
}

fn silent() -> Error {
    Error::Io(io::Error::new(
        io::ErrorKind::TimedOut,
        "no answer came in time: the connection is given up",
    ))
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(Inner::Pooled(mut connection)) = self.inner.take() else {
            return;
        };
        if self.in_doubt {
            drop(connection.detach());
        } else {
            PgTransactionManager::start_rollback(&mut connection);
            self.of.give_back(connection, self.answer_within);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("in_doubt", &self.in_doubt)
            .finish_non_exhaustive()
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Connection { inner, in_doubt, .. } = self;
        let mut late = Box::pin(sleep(self.answer_within));
        let mut rows = raw(inner).fetch_many(query);
        let mut is_over = false;
        stream::poll_fn(move |context| {
            if is_over {
                return Poll::Ready(None);
            }
            let row = rows.poll_next_unpin(context);
            if row.is_pending() && late.poll_unpin(context).is_ready() {
                (is_over, *in_doubt) = (true, true);
                return Poll::Ready(Some(Err(silent())));
            }
            row
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Connection { inner, in_doubt, .. } = self;
        Box::pin(in_time(self.answer_within, in_doubt, raw(inner).fetch_optional(query)))
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, Error>>
    where
        'c: 'e,
    {
        let Connection { inner, in_doubt, .. } = self;
        Box::pin(in_time(
            self.answer_within,
            in_doubt,
            raw(inner).prepare_with(sql, parameters),
        ))
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        let Connection { inner, in_doubt, .. } = self;
        Box::pin(in_time(self.answer_within, in_doubt, raw(inner).describe(sql)))
    }
}

/// A transaction over a connection of its own. Dropped, it is rolled back.
pub(in crate::ledger) struct Transaction(Connection);

impl Transaction {
    /// # Errors
    /// Postgres refused.
    pub(super) async fn begin(mut connection: Connection) -> Result<Self, Error> {
        connection.begin().await?;
        Ok(Transaction(connection))
    }

    /// # Errors
    /// Postgres refused, or it is not known what became of it.
    pub(in crate::ledger) async fn commit(mut self) -> Result<(), Error> {
        self.0.commit().await?;
        self.0.keep();
        Ok(())
    }

    /// # Errors
    /// Postgres could not be told; it will find out.
    pub(in crate::ledger) async fn rollback(mut self) -> Result<(), Error> {
        self.0.rollback().await?;
        self.0.keep();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

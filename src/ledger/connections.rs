//! The connections to one Postgres, kept open between calls.
//!
//! sqlx's pool asks Postgres after each use whether the connection still works, and gives it to the next only then: a
//! round trip beside that of every statement. So a connection that has just answered is laid aside here instead, and
//! whoever comes next takes it as it is. After an error, or where its user went away midway, it goes back to the pool when
//! it has answered; until then it counts as used, so that no more statements go on at Postgres than there are connections.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{TryFutureExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection as _, Describe, Either, Error, Execute, Executor, Postgres};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::connection::{Connection, Transaction};

/// A connection idle for less is taken to work: no Postgres is back so soon after it died. When it has died since, the
/// call fails as those in flight did.
const TRUSTED_FOR: Duration = Duration::from_millis(100);
/// One that has been out of the pool for longer goes back when it is used next, or when another is: the pool closes those
/// that are too old, or not needed any more.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Connections to one Postgres. Clones share them. As an executor it runs a statement over one of them and reads all of
/// its rows before it gives the first: what has more than memory holds is read over [`acquire`](Self::acquire).
#[derive(Clone)]
pub(in crate::ledger) struct Connections {
    pool: PgPool,
    statement_timeout: Duration,
    aside: Arc<Mutex<Aside>>,
}

/// What lies ready, the latest used last.
#[derive(Default)]
struct Aside {
    ready: Vec<Ready>,
    /// Those who wait at the pool: they are served by what is given back to it.
    waiting: usize,
    is_closed: bool,
}

struct Ready {
    connection: PoolConnection<Postgres>,
    left_pool: Instant,
    used: Instant,
}

impl Drop for Aside {
    /// Where no runtime is left there is no way back into the pool.
    fn drop(&mut self) {
        self.ready.drain(..).for_each(Ready::close);
    }
}

impl Ready {
    fn close(self) {
        drop(self.connection.detach());
    }
}

impl Connections {
    /// At most so many, each waited for, and tried where it has to be, for so long; Postgres ends statements that take
    /// longer than `statement_timeout`. None is opened yet.
    pub(in crate::ledger) fn new(
        connections_max: u32,
        acquire_timeout: Duration,
        statement_timeout: Duration,
        to: PgConnectOptions,
    ) -> Self {
        let options = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move { Ok(about.idle_for < TRUSTED_FOR || connection.ping().await.is_ok()) })
            });
        Connections::over(options, statement_timeout, to)
    }

    fn over(options: PgPoolOptions, statement_timeout: Duration, to: PgConnectOptions) -> Self {
        let ms = statement_timeout.as_millis().to_string();
        let to = to.options([("statement_timeout", ms.as_str())]);
        Connections {
            pool: options.connect_lazy_with(to),
            statement_timeout,
            aside: Arc::default(),
        }
    }

    /// So many others, to the same Postgres, with these options changed, and statements that take no longer than this.
    pub(in crate::ledger) fn apart(
        &self,
        connections_max: u32,
        statement_max: Duration,
        change: impl FnOnce(PgConnectOptions) -> PgConnectOptions,
    ) -> Self {
        let to = change((*self.pool.connect_options()).clone());
        let options = self.pool.options().clone().max_connections(connections_max);
        Connections::over(options, self.statement_timeout.min(statement_max), to)
    }

    /// How long an answer may be in coming where Postgres ends a statement after `statement_timeout`, or after the usual
    /// time: beyond it, as long as a connection that has to be tried.
    pub(super) fn answer_within(&self, statement_timeout: Option<Duration>) -> Duration {
        statement_timeout.unwrap_or(self.statement_timeout) + self.pool.options().get_acquire_timeout()
    }

    /// A connection for us alone.
    ///
    /// # Errors
    /// None got free in time, or none could be made.
    pub(in crate::ledger) async fn acquire(&self) -> Result<Connection, Error> {
        while let Some(ready) = self.take() {
            if let Some(connection) = self.tried(ready).await? {
                return Ok(connection);
            }
        }
        let _waiting = Waiting(self);
        let connection = self.pool.acquire().await?;
        Ok(Connection::new(connection, Instant::now(), self.clone()))
    }

    /// What was used last; none: whoever asked is counted among those who wait.
    fn take(&self) -> Option<Ready> {
        let mut aside = self.lock();
        let ready = aside.ready.pop();
        aside.waiting += usize::from(ready.is_none());
        ready
    }

    /// None where it does not work any more.
    async fn tried(&self, ready: Ready) -> Result<Option<Connection>, Error> {
        let mut connection = Connection::new(ready.connection, ready.left_pool, self.clone());
        if ready.used.elapsed() < TRUSTED_FOR {
            return Ok(Some(connection));
        }
        connection.doubt();
        match timeout(self.pool.options().get_acquire_timeout(), connection.ping()).await {
            Ok(Ok(())) => {
                connection.trust();
                Ok(Some(connection))
            }
            Ok(Err(_)) => Ok(None),
            Err(_) => {
                let is_silent = |other: &mut Ready| other.used <= ready.used;
                let silent: Vec<Ready> = self.lock().ready.extract_if(.., is_silent).collect();
                silent.into_iter().for_each(Ready::close);
                Err(Error::PoolTimedOut)
            }
        }
    }

    /// Lays it aside for the next, or gives it to the pool where somebody waits there or it is time to.
    pub(super) fn lay_aside(&self, connection: PoolConnection<Postgres>, left_pool: Instant) {
        let used = Instant::now();
        let mut back = Vec::new();
        {
            let mut aside = self.lock();
            // The first is the one that was needed least.
            if aside.ready.first().is_some_and(|first| used - first.used > KEPT_FOR) {
                back.push(aside.ready.remove(0).connection);
            }
            if aside.is_closed || aside.waiting > 0 || used - left_pool > KEPT_FOR {
                back.push(connection);
            } else {
                aside.ready.push(Ready {
                    connection,
                    left_pool,
                    used,
                });
            }
        }
        // Nothing is under way on them.
        let within = self.pool.options().get_acquire_timeout();
        back.into_iter()
            .for_each(|connection| self.give_back(connection, within));
    }

    /// Gives it to the pool, which waits until it has answered; closes it where that takes longer than this. The pool's own
    /// way back has no such bound, and until then counts the connection as used.
    pub(super) fn give_back(&self, mut connection: PoolConnection<Postgres>, within: Duration) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(timeout(within, connection.return_to_pool()))),
            Err(_) => drop(connection.detach()),
        }
    }

    /// A transaction over a connection of its own.
    ///
    /// # Errors
    /// No connection could be had, or Postgres refused.
    pub(in crate::ledger) async fn begin(&self) -> Result<Transaction, Error> {
        Transaction::begin(self.acquire().await?).await
    }

    /// Gives all of them back, when those in use are; later calls fail.
    pub(in crate::ledger) async fn close(&self) {
        let ready = {
            let mut aside = self.lock();
            aside.is_closed = true;
            std::mem::take(&mut aside.ready)
        };
        // The pool knows that it is closed before it gets any.
        let closed = self.pool.close();
        drop(ready);
        closed.await;
    }

    fn lock(&self) -> MutexGuard<'_, Aside> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.pool).finish()
    }
}

/// Somebody who waits at the pool.
struct Waiting<'a>(&'a Connections);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Executor<'_> for &'_ Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let connections = self.clone();
        let read = async move {
            let mut connection = connections.acquire().await?;
            let read: Vec<_> = connection.fetch_many(query).try_collect().await?;
            connection.keep();
            Ok(stream::iter(read.into_iter().map(Ok)))
        };
        Box::pin(read.try_flatten_stream())
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let connections = self.clone();
        Box::pin(async move {
            let mut connection = connections.acquire().await?;
            let row = connection.fetch_optional(query).await?;
            connection.keep();
            Ok(row)
        })
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, Error>> {
        let connections = self.clone();
        Box::pin(async move { connections.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, Error>> {
        let connections = self.clone();
        Box::pin(async move { connections.acquire().await?.describe(sql).await })
    }
}

//! The connections to one Postgres, kept open between calls.
//!
//! sqlx's pool asks Postgres after each use whether the connection still works, and gives it to the next only then: a
//! round trip beside that of every statement. So a connection that has just answered is laid aside here instead, and
//! whoever comes next takes it as it is. After an error, or where its user went away midway, it goes through the pool,
//! which waits for the answer and tries it. Between a `BEGIN` and its answer that is not enough: the pool would hand out
//! a transaction that nobody ends. So who goes away then closes it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{TryFutureExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTransactionManager,
    PgTypeInfo,
};
use sqlx::{Connection as _, Describe, Either, Error, Execute, Executor, Postgres, TransactionManager as _};
use tokio::time::timeout;

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
    /// At most so many, each waited for, and tried where it has to be, for so long. None is opened yet.
    pub(in crate::ledger) fn new(connections_max: u32, acquire_timeout: Duration, to: PgConnectOptions) -> Self {
        let options = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move { Ok(about.idle_for < TRUSTED_FOR || connection.ping().await.is_ok()) })
            });
        Connections::over(options.connect_lazy_with(to))
    }

    fn over(pool: PgPool) -> Self {
        Connections {
            pool,
            aside: Arc::default(),
        }
    }

    /// So many others, to the same Postgres, with these options changed.
    pub(in crate::ledger) fn apart(
        &self,
        connections_max: u32,
        change: impl FnOnce(PgConnectOptions) -> PgConnectOptions,
    ) -> Self {
        let to = change((*self.pool.connect_options()).clone());
        let options = self.pool.options().clone().max_connections(connections_max);
        Connections::over(options.connect_lazy_with(to))
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
        Ok(Connection {
            inner: Some(self.pool.acquire().await?),
            left_pool: Instant::now(),
            in_doubt: false,
            of: self.clone(),
        })
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
        let mut connection = Connection {
            inner: Some(ready.connection),
            left_pool: ready.left_pool,
            in_doubt: false,
            of: self.clone(),
        };
        if ready.used.elapsed() < TRUSTED_FOR {
            return Ok(Some(connection));
        }
        connection.in_doubt = true;
        match timeout(self.pool.options().get_acquire_timeout(), connection.ping()).await {
            Ok(Ok(())) => {
                connection.in_doubt = false;
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
    fn lay_aside(&self, connection: PoolConnection<Postgres>, left_pool: Instant) {
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
        drop(back);
    }

    /// A transaction over a connection of its own.
    ///
    /// # Errors
    /// No connection could be had, or Postgres refused.
    pub(in crate::ledger) async fn begin(&self) -> Result<Transaction, Error> {
        let mut connection = self.acquire().await?;
        connection.in_doubt = true;
        PgTransactionManager::begin(&mut connection, None).await?;
        connection.in_doubt = false;
        Ok(Transaction {
            connection: Some(connection),
        })
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

/// A connection. [Kept](Self::keep), it lies ready for the next; dropped, it goes through the pool.
pub(in crate::ledger) struct Connection {
    /// There until it is kept or detached.
    inner: Option<PoolConnection<Postgres>>,
    left_pool: Instant,
    /// Dropped now, it is closed.
    in_doubt: bool,
    of: Connections,
}

const THERE: &str = "a connection that is used has neither been kept nor detached";

impl Connection {
    /// Lays it aside. Only after an answer that was read to its end.
    pub(in crate::ledger) fn keep(mut self) {
        let connection = self.inner.take().expect(THERE);
        self.of.lay_aside(connection, self.left_pool);
    }

    /// From now on it is closed when it is dropped, for its answer may never come; until it is [trusted](Self::trust).
    pub(in crate::ledger) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// It has answered.
    pub(in crate::ledger) fn trust(&mut self) {
        self.in_doubt = false;
    }

    /// A transaction over it.
    ///
    /// # Errors
    /// Postgres refused.
    pub(in crate::ledger) async fn begin(&mut self) -> Result<sqlx::Transaction<'_, Postgres>, Error> {
        self.doubt();
        let Connection { inner, in_doubt, .. } = self;
        let tx = inner.as_mut().expect(THERE).begin().await?;
        *in_doubt = false;
        Ok(tx)
    }

    /// The connection itself, which the pool forgets.
    pub(in crate::ledger) fn detach(mut self) -> PgConnection {
        self.inner.take().expect(THERE).detach()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(connection) = self.inner.take().filter(|_| self.in_doubt) {
            drop(connection.detach());
        }
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.inner.as_ref().expect(THERE)
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.inner.as_mut().expect(THERE)
    }
}

/// A transaction. Dropped, it is rolled back.
pub(in crate::ledger) struct Transaction {
    /// There until it has ended.
    connection: Option<Connection>,
}

const OPEN: &str = "a transaction that is used has not ended";

impl Transaction {
    /// # Errors
    /// Postgres refused, or it is not known what became of it.
    pub(in crate::ledger) async fn commit(mut self) -> Result<(), Error> {
        PgTransactionManager::commit(&mut self).await?;
        self.end();
        Ok(())
    }

    /// # Errors
    /// Postgres could not be told; it will find out.
    pub(in crate::ledger) async fn rollback(mut self) -> Result<(), Error> {
        PgTransactionManager::rollback(&mut self).await?;
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        self.connection.take().expect(OPEN).keep();
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(OPEN)
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(OPEN)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            // The pool, through which it goes now, sends it.
            PgTransactionManager::start_rollback(connection);
        }
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

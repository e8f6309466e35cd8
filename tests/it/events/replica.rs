//! Pages of events from a read replica: all that is settled, and no more than there is.

use std::time::Duration;

use flashgate::dev::postgres::Postgres;
use flashgate::ledger::events::{After, Wanted};
use flashgate::ledger::{Ledger, Settings};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::late::{APPEND, all, walk};
use crate::support::door::until;
use crate::support::servers::{Home, Private, home};
use crate::support::standby::standby;

/// A migrated primary with a replica, and a ledger that knows both.
struct Two {
    servers: Private,
    replica: Postgres,
    at_primary: PgPool,
    at_replica: PgPool,
    ledger: Ledger,
    _home: Home,
}

impl Two {
    async fn start() -> Two {
        let mut servers = Private::start().await;
        let ledger = Ledger::new(&Settings::new(&servers.postgres.url())).expect("an address");
        ledger.migrate(4).await.expect("migrates");
        ledger.close().await;
        let place = home();
        let replica = tokio::task::block_in_place(|| standby(&mut servers.postgres, &place));
        let ledger = Ledger::new(&Settings {
            read_url: Some(replica.url()),
            ..Settings::new(&servers.postgres.url())
        });
        Two {
            at_primary: PgPool::connect_lazy(&servers.postgres.url()).expect("an address"),
            at_replica: PgPool::connect_lazy(&replica.url()).expect("an address"),
            ledger: ledger.expect("addresses"),
            servers,
            replica,
            _home: place,
        }
    }

    async fn append(&self) {
        sqlx::query(APPEND).execute(&self.at_primary).await.expect("appends");
    }

    /// Connections there that a page was read on last: nothing else is read in a transaction.
    async fn pages(pool: &PgPool) -> i64 {
        let pages = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'flashgate' AND query = 'ROLLBACK'";
        sqlx::query_scalar(pages).fetch_one(pool).await.expect("answers")
    }

    async fn replay(&self, word: &str) {
        let sql = format!("SELECT pg_wal_replay_{word}()");
        sqlx::query(&sql).execute(&self.at_replica).await.expect("a standby");
    }

    async fn ids(&self, after: Option<i64>) -> Vec<i64> {
        walk(&self.ledger, after.map(After::Event), 3).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_has_the_pages_that_it_has_all_of() {
    let mut two = Two::start().await;
    for _ in 0..7 {
        two.append().await;
    }
    // What the primary writes to its log when it has nothing else to do may take its time.
    until("pages at the replica alone", async || {
        two.ids(None).await;
        (Two::pages(&two.at_replica).await > 0).then_some(())
    })
    .await;
    assert_eq!(two.ids(None).await, all(&two.at_primary).await);

    // It has fallen behind: the primary has the rest.
    two.replay("pause").await;
    for _ in 0..3 {
        two.append().await;
    }
    assert_eq!(two.ids(None).await, all(&two.at_primary).await);
    two.replay("resume").await;

    // The primary is away: what was settled is there to the end, and no page begins anew.
    let known = all(&two.at_primary).await;
    until("the replica to have all", async || {
        let there = all(&two.at_replica).await;
        let ids = two.ids(None).await;
        (there == known && ids == known).then_some(())
    })
    .await;
    two.at_primary.close().await;
    two.servers.postgres.kill();
    assert_eq!(two.ids(None).await, known);
    let wanted = Wanted {
        after: Some(After::Event(known[8])),
        ..Wanted::default()
    };
    let page = two.ledger.events(&wanted, 3).await.expect("reads").expect("is there");
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.resume.map(|end| end.id), Some(known[9]));
    two.ledger.close().await;
    tokio::task::block_in_place(|| two.replica.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_replica_passes_no_event_that_commits_late() {
    let two = Two::start().await;
    two.append().await;
    let halt = CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let pool = two.at_primary.clone();
            tokio::spawn(async move {
                for round in 0..40 {
                    let mut tx = pool.begin().await.expect("begins");
                    sqlx::query(APPEND).execute(&mut *tx).await.expect("appends");
                    tokio::time::sleep(Duration::from_millis((n * 7 + round * 3) % 23)).await;
                    tx.commit().await.expect("commits");
                }
            })
        })
        .collect();
    // The log is replayed by fits and starts.
    let (at_replica, stop) = (two.at_replica.clone(), halt.clone());
    let hiccups = tokio::spawn(async move {
        while !stop.is_cancelled() {
            for word in ["pause", "resume"] {
                let sql = format!("SELECT pg_wal_replay_{word}()");
                sqlx::query(&sql).execute(&at_replica).await.expect("a standby");
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    });
    let (mut seen, mut at_replica): (Vec<i64>, bool) = (Vec::new(), false);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) || seen != all(&two.at_primary).await {
        seen.extend(two.ids(seen.last().copied()).await);
        assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
        at_replica |= Two::pages(&two.at_replica).await > 0;
    }
    assert!(at_replica, "some pages come from the replica");
    halt.cancel();
    hiccups.await.expect("ends");
    for writer in writers {
        writer.await.expect("writes");
    }
    two.ledger.close().await;
}

//! Connections to Postgres that lie ready between calls: whoever waits gets one, none is used that is not whole, and where
//! no answer comes nobody waits for ever.

use std::net::SocketAddr;
use std::time::Duration;

use flashgate::domain::id::Item;
use flashgate::drill::wire::Wire;
use flashgate::ledger::adjust::Adjusted;
use flashgate::ledger::{Ledger, LedgerError, Pace, Settings};
use futures::future::join_all;
use sqlx::{Postgres, Transaction};
use tokio::time::{sleep, timeout};

use crate::support::door::until;
use crate::support::ledger::{Desk, by, received};
use crate::support::servers::shared;
use crate::support::wire::{server_of, wired};

const OURS: &str = "FROM pg_stat_activity WHERE application_name = 'flashgate' AND datname = current_database()";

async fn count(desk: &Desk) -> i64 {
    sqlx::query_scalar(&format!("SELECT count(*) {OURS}"))
        .fetch_one(&desk.pool)
        .await
        .expect("Postgres answers")
}

/// A transaction that holds what this locks.
async fn holding(desk: &Desk, lock: &str) -> Transaction<'static, Postgres> {
    let mut held = desk.pool.begin().await.expect("begins");
    sqlx::query(lock).execute(&mut *held).await.expect("locks");
    held
}

async fn receive(ledger: &Ledger, item: &Item, units: i64) -> Result<Adjusted, LedgerError> {
    ledger.adjust(&received(item, units), &by()).await
}

#[tokio::test]
async fn one_connection_serves_a_crowd() {
    let desk = Desk::open().await;
    let one = desk.ledger.apart(1, Pace::Usual);
    let asks = (0..32).map(|_| async {
        for _ in 0..50 {
            one.now().await.expect("a connection within its time");
        }
    });
    let before = count(&desk).await;
    join_all(asks).await;
    assert_eq!(count(&desk).await, before + 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_nothing_behind() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 100).await;
    let one = desk.ledger.apart(1, Pace::Usual);
    one.now().await.expect("answers");

    let held = holding(&desk, "SELECT FROM inventory_balance WHERE sku_id = 'a' FOR UPDATE").await;
    let waits = timeout(Duration::from_millis(300), receive(&one, &item, 7)).await;
    assert!(waits.is_err(), "it waits for the balance: {waits:?}");
    held.rollback().await.expect("lets go");

    let done = receive(&one, &item, 20).await.expect("the connection is whole");
    assert!(matches!(done, Adjusted::Done(_)), "{done:?}");
    let on_hand: i64 = sqlx::query_scalar("SELECT on_hand FROM inventory_balance WHERE sku_id = 'a'")
        .fetch_one(&desk.pool)
        .await
        .expect("Postgres answers");
    assert_eq!(on_hand, 120, "committed, and nothing else");
}

/// Then the session is in a transaction of which neither we nor the pool know.
#[tokio::test]
async fn a_call_that_is_dropped_as_it_begins_leaves_no_transaction_open() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 100).await;
    let one = desk.ledger.apart(1, Pace::Usual);
    one.now().await.expect("answers");
    // Where Postgres is faster than we are, all of it may be over at once.
    for _ in 0..100 {
        let mut call = Box::pin(receive(&one, &item, 7));
        if futures::poll!(&mut call).is_pending() {
            break;
        }
    }
    one.leave(desk.owner).await.expect("the connection is whole");
    assert_eq!(desk.count("SELECT count(*) FROM gateway").await, 0, "committed");
}

#[tokio::test]
async fn a_connection_that_died_while_it_lay_ready_is_replaced() {
    let desk = Desk::open().await;
    let few = desk.ledger.apart(3, Pace::Usual);
    join_all((0..3).map(|_| few.now())).await;
    sleep(Duration::from_millis(150)).await;
    sqlx::query(&format!("SELECT pg_terminate_backend(pid) {OURS}"))
        .execute(&desk.pool)
        .await
        .expect("Postgres answers");
    for answer in join_all((0..3).map(|_| few.now())).await {
        answer.expect("over another connection");
    }
}

#[tokio::test]
async fn what_lies_ready_is_given_back_at_the_end() {
    let desk = Desk::open().await;
    let before = count(&desk).await;
    let few = desk.ledger.apart(3, Pace::Usual);
    join_all((0..3).map(|_| few.now())).await;
    assert!(count(&desk).await > before);
    timeout(Duration::from_secs(2), few.close())
        .await
        .expect("nobody keeps any");
    assert!(few.now().await.is_err());
    timeout(Duration::from_secs(5), async {
        while count(&desk).await > before {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("they are gone");
}

#[test]
fn a_ledger_may_be_dropped_after_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ledger = runtime.block_on(async {
        let desk = Desk::open().await;
        desk.ledger.now().await.expect("answers");
        desk.ledger
    });
    drop(runtime);
    drop(ledger);
}

/// Connections that nobody gives up on for a reset: there is none.
struct Silent {
    wire: Wire,
    desk: Desk,
    server: SocketAddr,
    /// Over the wire.
    ledger: Ledger,
}

/// How long a statement may take there, and a connection be tried.
const SHORT: Duration = Duration::from_millis(500);

impl Silent {
    async fn new() -> Silent {
        let url = shared().await.tcp_database().await;
        let desk = Desk::at(&url).await;
        let server = server_of(&url);
        let (wire, url) = wired(&url).await;
        let ledger = Ledger::new(&Settings {
            connections_max: 1,
            acquire_timeout: SHORT,
            statement_timeout: SHORT,
            ..Settings::new(&url)
        });
        let ledger = ledger.expect("an address");
        ledger.now().await.expect("answers");
        Silent {
            wire,
            desk,
            server,
            ledger,
        }
    }

    /// Another one does, soon.
    async fn works(&self) {
        let answers = async {
            while let Err(error) = self.ledger.now().await {
                assert!(matches!(error, LedgerError::Unavailable(_)), "{error}");
            }
        };
        timeout(Duration::from_secs(10), answers)
            .await
            .expect("a connection that answers");
    }
}

#[tokio::test]
async fn a_statement_whose_answer_never_comes_is_given_up() {
    let silent = Silent::new().await;
    silent.wire.silence();
    // Too early to be tried before.
    let unanswered = timeout(Duration::from_secs(10), silent.ledger.now()).await;
    let error = unanswered.expect("it ends").expect_err("nobody answers");
    assert!(matches!(error, LedgerError::Unavailable(_)), "{error}");
    silent.works().await;
}

#[tokio::test]
async fn a_transaction_whose_answer_never_comes_is_given_up() {
    let silent = Silent::new().await;
    let item = silent.desk.stock("a", 100).await;
    let held = holding(
        &silent.desk,
        "SELECT FROM inventory_balance WHERE sku_id = 'a' FOR UPDATE",
    )
    .await;
    let falls_silent = async {
        sleep(SHORT / 2).await;
        silent.wire.silence();
    };
    let waiting = timeout(Duration::from_secs(10), receive(&silent.ledger, &item, 7));
    let (unanswered, ()) = tokio::join!(waiting, falls_silent);
    let error = unanswered.expect("it ends").expect_err("nobody answers");
    assert!(matches!(error, LedgerError::Unavailable(_)), "{error}");
    held.rollback().await.expect("lets go");
    silent.works().await;
}

#[tokio::test]
async fn a_silent_connection_that_is_dropped_midway_keeps_nobody_waiting() {
    let silent = Silent::new().await;
    let mut unanswered = Box::pin(silent.ledger.now());
    silent.wire.silence();
    assert!(timeout(SHORT / 4, &mut unanswered).await.is_err());
    drop(unanswered);
    silent.works().await;
}

#[tokio::test]
async fn a_connection_that_fell_silent_while_it_lay_ready_is_replaced() {
    let silent = Silent::new().await;
    silent.wire.silence();
    sleep(Duration::from_millis(150)).await;
    silent.works().await;
}

#[tokio::test]
async fn what_may_take_long_is_waited_for() {
    let silent = Silent::new().await;
    let held = holding(&silent.desk, "LOCK TABLE inventory_event IN ACCESS EXCLUSIVE MODE").await;
    let lets_go = async {
        sleep(SHORT * 5).await;
        held.rollback().await.expect("lets go");
    };
    let (audit, ()) = tokio::join!(silent.ledger.audit(), lets_go);
    assert!(audit.expect("it waits").differences.is_empty());
}

/// Else a session whose gateway is gone without a word keeps what it has locked, for two hours.
#[tokio::test]
async fn postgres_asks_whether_we_are_still_there() {
    let silent = Silent::new().await;
    let clients: Vec<i32> = sqlx::query_scalar(&format!("SELECT client_port {OURS}"))
        .fetch_all(&silent.desk.pool)
        .await
        .expect("Postgres answers");
    assert!(!clients.is_empty());
    let hex = |text: &str| i64::from_str_radix(text, 16).expect("a number");
    let asks = |socket: &str| {
        let words: Vec<&str> = socket.split_whitespace().collect();
        let port = |word: usize| words[word].split_once(':').map(|(_, port)| hex(port));
        let (timer, when) = words[5].split_once(':').expect("a timer");
        let ours = |client: &i32| port(2) == Some(i64::from(*client));
        // A keep-alive, in hundredths of a second.
        let soon = timer == "02" && hex(when) <= 1_000;
        port(1) == Some(silent.server.port().into()) && clients.iter().any(ours) && soon
    };
    until("what was sent to be acknowledged", async || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells of its sockets");
        let asked = sockets.lines().skip(1).filter(|socket| asks(socket)).count();
        (asked == clients.len()).then_some(())
    })
    .await;
}

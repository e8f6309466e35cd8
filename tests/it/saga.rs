//! The example of a checkout as a saga, against a real gateway: its journals say how each checkout ended, and the ledger is
//! asked for each whether that is so.
//!
//! The example is the one that `cargo test` has built beside the gateway. Where only this program was asked for
//! (`--test it`), `cargo build --example checkout_saga` comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use sqlx::PgPool;
use tokio::process::Command;

use crate::support::gateway::Whole;
use crate::support::servers::{Home, home};

/// Five steps, and what undoes them.
const STEPS: [&str; 10] = [
    "reserve",
    "authorise",
    "order",
    "commit",
    "capture",
    "release",
    "void",
    "cancel-order",
    "return",
    "refund",
];

/// What the ledger has of an order.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Books {
    /// Its reservations, by status.
    statuses: Vec<String>,
    on_hand: i64,
    reserved: i64,
    /// Sold, and not returned.
    out: i64,
}

fn example() -> PathBuf {
    let gateway = Path::new(env!("CARGO_BIN_EXE_flashgate"));
    let beside = gateway.parent().expect("it lies in a directory");
    let path = beside.join("examples").join("checkout_saga");
    assert!(
        path.exists(),
        "`cargo build --example checkout_saga` makes {}",
        path.display()
    );
    path
}

async fn run(whole: &Whole, journals: &Home, args: &[&str]) -> Output {
    let mut command = Command::new(example());
    command.args(["--url", &format!("http://{}", whole.public)]);
    command.args(["--admin", &format!("http://{}", whole.admin)]);
    command.arg("--journals").arg(journals.path()).args(args);
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output();
    ran.await.expect("the example runs")
}

fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// The journals, line by line.
fn journals(home: &Home) -> Vec<Vec<Value>> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(path).expect("a journal");
        let line = |line| serde_json::from_str(line).expect("whole lines of JSON");
        text.lines().map(line).collect()
    };
    let files = fs::read_dir(home.path()).expect("the directory is there");
    files.map(|file| read(file.expect("a file").path())).collect()
}

fn word<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().unwrap_or_default()
}

async fn books(pool: &PgPool, order: &str) -> Books {
    let books = sqlx::query_as(
        "SELECT coalesce((SELECT array_agg(status::text) FROM inventory_reservation WHERE order_id = $1), '{}') AS statuses,
                coalesce(sum(on_hand_delta), 0)::int8 AS on_hand, coalesce(sum(reserved_delta), 0)::int8 AS reserved,
                coalesce(sum(sold_delta) - sum(returned_delta), 0)::int8 AS out
         FROM inventory_movement WHERE order_id = $1",
    );
    books.bind(order).fetch_one(pool).await.expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checkout_has_one_end_wherever_it_crashed() {
    let (whole, home) = (Whole::empty().await, home());
    let ran = run(&whole, &home, &[]).await;
    assert!(ran.status.success(), "{}", told(&ran));
    let (mut ends, mut crashed): (BTreeMap<String, u32>, BTreeSet<(String, String)>) = Default::default();
    let mut crashes = 0;
    for journal in journals(&home) {
        let begin = &journal[0]["checkout"];
        let (order, units) = (word(begin, "order"), begin["quantity"].as_i64().expect("units"));
        let ended = word(journal.last().expect("a line"), "end");
        *ends.entry(ended.to_owned()).or_default() += 1;
        let resumed = journal.iter().position(|entry| entry["entry"] == "resumed");
        if let Some(before) = resumed.map(|at| &journal[at - 1]) {
            crashes += 1;
            crashed.insert((word(before, "entry").to_owned(), word(before, "step").to_owned()));
        }
        let books = books(&whole.pool, order).await;
        match ended {
            "sold" => {
                let expected = Books {
                    statuses: vec!["COMMITTED".to_owned()],
                    on_hand: -units,
                    reserved: 0,
                    out: units,
                };
                assert_eq!(books, expected, "{journal:#?}");
            }
            "undone" => {
                let nothing = (books.on_hand, books.reserved, books.out) == (0, 0, 0);
                let is_held = books.statuses.iter().any(|status| status == "RESERVED");
                assert!(nothing && !is_held, "{books:?} {journal:#?}");
            }
            other => panic!("it ended {other:?}: {journal:#?}"),
        }
    }
    assert!(
        crashes >= 100 && ends["sold"] >= 40 && ends["undone"] >= 80,
        "{crashes} crashes, {ends:?}"
    );
    // Each step was cut off before its outcome was known, and after.
    for step in STEPS {
        for entry in ["intent", "done"] {
            let place = (entry.to_owned(), step.to_owned());
            assert!(crashed.contains(&place), "no crash after {place:?}: {crashed:?}");
        }
    }
    whole.settled().await;
    whole.stop().await;
}

/// So the tour's word counts for something.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_nobody_takes_up_is_found() {
    let (whole, home) = (Whole::empty().await, home());
    for (crash, status) in [("reserve", "RESERVED"), ("commit:call", "COMMITTED")] {
        let ran = run(&whole, &home, &["--crash-after", crash, "--no-resume"]).await;
        assert_eq!(ran.status.code(), Some(1), "{}", told(&ran));
        let lines = told(&ran);
        let wrong = lines
            .lines()
            .find(|line| line.starts_with("WRONG"))
            .expect("what is wrong");
        assert!(wrong.contains("it did not end"), "{lines}");
        assert!(lines.contains(&format!("NOT ENDED: reservation {status}")), "{lines}");
    }
    whole.settled().await;
    whole.stop().await;
}

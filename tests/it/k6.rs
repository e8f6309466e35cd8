//! The k6 journey against a gateway: it runs as it is, under the shim, and what it counts is what the sale counts.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::gateway::Whole;
use crate::support::socket::put_on_sale;

/// The first version that reads TypeScript by itself.
const STRIPS_TYPES: (u32, u32) = (22, 18);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest/k6")
}

async fn run(program: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder()).envs(variables.iter().copied());
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    ran.unwrap_or_else(|error| panic!("the journey needs {program}, of Node 20.6 or later: {error}"))
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Older versions of Node need the compiler of `package.json`.
async fn prepare() {
    let told = text(&run("node", &["--version"], &[]).await);
    let mut parts = told
        .trim()
        .trim_start_matches('v')
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < STRIPS_TYPES && !folder().join("node_modules/typescript").exists() {
        let installed = run("npm", &["ci", "--no-audit", "--no-fund"], &[]).await;
        assert!(installed.status.success(), "{}", text(&installed));
    }
}

/// So many buyers, one after another in each of four rows; the last line of the run.
async fn journey(whole: &Whole, iterations: &str, variables: &[(&str, &str)]) -> Value {
    let (public, admin) = (format!("http://{}", whole.public), format!("http://{}", whole.admin));
    let mut all = vec![
        ("BASE_URL", public.as_str()),
        ("ADMIN_URL", admin.as_str()),
        ("LOCATION_ID", "wh1"),
        // Two shared cores, and a debug build: this is no measurement.
        ("P95_MS", "10000"),
    ];
    all.extend(variables);
    let args = ["shim/run.mjs", "--iterations", iterations, "--vus", "4"];
    let ran = run("node", &args, &all).await;
    assert!(ran.status.success(), "{}", text(&ran));
    let told = text(&ran);
    let summary = String::from_utf8_lossy(&ran.stdout)
        .trim_end()
        .lines()
        .last()
        .map(str::to_owned);
    serde_json::from_str(&summary.unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn count(summary: &Value, name: &str) -> i64 {
    summary[name].as_i64().unwrap_or_else(|| panic!("{name} of {summary}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journey_s_numbers_are_the_sale_s() {
    prepare().await;
    let whole = Whole::empty().await;
    put_on_sale(&whole, "plenty", 500, json!({})).await;
    put_on_sale(&whole, "few", 20, json!({"buckets": 2, "perUserLimit": 2})).await;
    for (sku, iterations, quantity, users) in [("plenty", "60", 2, "0"), ("few", "60", 1, "12")] {
        let units = quantity.to_string();
        let variables = [
            ("SKU_ID", sku),
            ("SALE_ID", sku),
            ("QUANTITY", units.as_str()),
            ("USERS", users),
        ];
        let summary = journey(&whole, iterations, &variables).await;
        whole.settled().await;
        let sale = whole.sale(sku).await;
        let ends = [
            "committed",
            "released",
            "walkedAway",
            "soldOut",
            "limited",
            "notLive",
            "expired",
            "rejected",
            "gaveUp",
            "errors",
        ];
        let sum: i64 = ends.iter().map(|end| count(&summary, end)).sum();
        assert_eq!((count(&summary, "iterations"), sum), (60, 60), "{summary}");
        let counted = |name: &str| sale["counts"][name].as_i64().expect("a count");
        assert_eq!(
            counted("accepted"),
            quantity * count(&summary, "reserved"),
            "{summary} {sale}"
        );
        assert_eq!(
            counted("committed"),
            quantity * count(&summary, "committed"),
            "{summary} {sale}"
        );
        assert_eq!(
            counted("released"),
            quantity * count(&summary, "released"),
            "{summary} {sale}"
        );
        let gone = quantity * (count(&summary, "committed") + count(&summary, "walkedAway"));
        assert_eq!(
            sale["remaining"],
            sale["allocation"].as_i64().expect("units") - gone,
            "{summary} {sale}"
        );
        assert_eq!(
            (count(&summary, "errors"), count(&summary, "gaveUp")),
            (0, 0),
            "{summary}"
        );
        let refused = count(&summary, "soldOut") + count(&summary, "limited");
        assert_eq!(refused > 0, sku == "few", "{summary}");
    }
    whole.stop().await;
}

//! The capacity model against the benchmark: what it says of a machine is what was measured there.
//!
//! The runs are those in `loadtest/results/`; the newest counts. A run whose costs are not the model's any more, or whose
//! rates the model does not explain, fails here: measure again, or mend the model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flashgate::capacity::{Costs, Demand};
use serde_json::Value;

/// How far the model may be off.
const OFF_MAX: f64 = 0.25;

fn newest() -> (PathBuf, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest/results");
    let runs = fs::read_dir(&folder)
        .expect("there are results")
        .map(|entry| entry.expect("can be read").path());
    let mut runs: Vec<PathBuf> = runs
        .filter(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            name.ends_with(".json") && !name.ends_with("-soak.json")
        })
        .collect();
    runs.sort();
    let newest = runs.pop().expect("there is a run");
    let text = fs::read_to_string(&newest).expect("can be read");
    (newest, serde_json::from_str(&text).expect("is JSON"))
}

fn median(run: &Value, figure: &str) -> f64 {
    run["figures"][figure]["median"]
        .as_f64()
        .unwrap_or_else(|| panic!("the run has no {figure}"))
}

fn close(what: &str, model: f64, measured: f64) {
    let off = model / measured - 1.0;
    eprintln!(
        "{what}: model {model:.1}, measured {measured:.1}, {:+.0} %",
        off * 100.0
    );
    assert!(
        off.abs() <= OFF_MAX,
        "{what}: the model says {model:.1}, measured is {measured:.1}"
    );
}

fn orders(accept: f64) -> Demand {
    Demand {
        rate: 1_000.0,
        accept,
        reads: 0.0,
        lasts_s: 10.0,
        sale_s: 10.0,
        hot_s: 10.0,
        skus: 1.0,
        headroom: 1.0,
    }
}

#[test]
fn the_model_says_what_the_benchmark_measured() {
    let (path, run) = newest();
    eprintln!("{}", path.display());
    let cores = run["machine"]["cores"].as_f64().expect("says how many cores");
    let costs = Costs::MEASURED;
    // Whoever drives the load runs there too. What it takes, the no-op handler shows, which has nothing else beside it.
    let driver_us = cores * 1e6 / median(&run, "no-op.rate") - median(&run, "no-op.gateway_us");
    let rate = |accept: f64| orders(accept).rate_on(cores, driver_us, &costs);
    close(
        "accepted/s, the writer keeping up",
        rate(1.0),
        median(&run, "steady.rate"),
    );
    close("sold-out answers/s", rate(0.0), median(&run, "sold-out.rate"));
    let needs = orders(1.0).needs(&costs);
    let made = needs.accepted_rate * 10.0;
    close(
        "Redis' memory for one",
        needs.redis_bytes / made,
        median(&run, "live.redis_bytes"),
    );
    close(
        "Postgres' disk for one",
        costs.reservation_bytes + costs.event_bytes + costs.key_bytes,
        median(&run, "disk.bytes"),
    );
    close("Postgres' log for one", costs.wal_bytes, median(&run, "wal.bytes"));
    close(
        "… for its end",
        costs.ending_wal_bytes,
        median(&run, "commit.wal_bytes"),
    );
}

#[test]
fn the_costs_are_those_of_the_newest_run() {
    let (_, run) = newest();
    let (model, measured) = (
        Costs::MEASURED,
        Costs::of_results(&run.to_string()).expect("has all costs"),
    );
    close("gateway", model.gateway_us, measured.gateway_us);
    close("redis", model.redis_us, measured.redis_us);
    close("postgres", model.postgres_us, measured.postgres_us);
    close("gateway, an end", model.ending_gateway_us, measured.ending_gateway_us);
    close(
        "postgres, an end",
        model.ending_postgres_us,
        measured.ending_postgres_us,
    );
    close("sold out", model.sold_out_us, measured.sold_out_us);
    close("read", model.read_us, measured.read_us);
}

#[test]
fn twice_the_orders_take_twice_as_much() {
    let (one, two) = (
        orders(0.7),
        Demand {
            rate: 2_000.0,
            ..orders(0.7)
        },
    );
    let (one, two) = (one.needs(&Costs::MEASURED), two.needs(&Costs::MEASURED));
    for (one, two) in [
        (one.gateway_cores, two.gateway_cores),
        (one.postgres_cores, two.postgres_cores),
        (one.redis_bytes, two.redis_bytes),
        (one.wal_rate, two.wal_rate),
        (one.ledger_bytes, two.ledger_bytes),
    ] {
        assert!((two / one - 2.0).abs() < 1e-9);
    }
}

fn told(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashgate"));
    command.arg("capacity").args(args).output().expect("it runs")
}

#[test]
fn the_page_shows_what_the_command_says() {
    let page = include_str!("../docs/capacity.md");
    let shown: Vec<&str> = page.split("```\n$ flashgate capacity ").skip(1).collect();
    assert_eq!(shown.len(), 4, "a block for each size");
    for block in shown {
        let (args, table) = block.split_once('\n').expect("a table follows");
        let table = table.split("\n```").next().expect("it ends");
        let args: Vec<&str> = args.split(' ').collect();
        let said = String::from_utf8(told(&args).stdout).expect("is text");
        assert_eq!(said.trim_end(), table, "{args:?}");
    }
}

#[test]
fn what_is_no_run_is_refused_by_its_setting() {
    let refused = told(&["--rate", "1", "--results", "/dev/null"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("--results"), "{why}");
    let asked = |rest: &str| told(&rest.split(' ').collect::<Vec<_>>()).status.success();
    assert!(asked("--rate 1 --accept 1 --headroom 1"));
    for wrong in ["--rate 0", "--rate 1 --accept 1.5", "--rate 1 --headroom nan"] {
        assert!(!asked(wrong), "{wrong}");
    }
}

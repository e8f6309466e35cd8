//! The drill itself: every fault once, as `make drill` causes it for longer.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::servers::home;

#[tokio::test]
async fn every_fault_once() {
    let home = home();
    // Another order of faults than the next test's; any seed must do.
    let said = drill(&["--rounds", "1", "--short", "--seed", "7", "--dir"], home.path()).await;
    assert!(said.contains("everything held"), "{said}");
    let rounds = said.lines().filter(|line| line.starts_with("round ")).count();
    assert!(rounds > 20, "{said}");
}

#[tokio::test]
async fn a_seed_repeats_the_schedule() {
    let home = home();
    let mut schedules = Vec::new();
    for turn in ["one", "other"] {
        let dir = home.path().join(turn);
        let args = [
            "--rounds",
            "1",
            "--short",
            "--seed",
            "11",
            "--fault",
            "two_at_once",
            "--fault",
        ];
        let said = drill(&[&args[..], &["kill_clients", "--dir"]].concat(), &dir).await;
        let names = said.lines().filter(|line| line.starts_with("round "));
        let names: Vec<String> = names
            .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
            .collect();
        schedules.push(names);
    }
    assert_eq!(schedules[0], schedules[1]);
    assert_eq!(schedules[0].len(), 2, "{schedules:?}");
}

/// What it says; panics where something did not hold.
async fn drill(args: &[&str], dir: &std::path::Path) -> String {
    let child = Command::new(env!("CARGO_BIN_EXE_flashgate"))
        .args(["drill", "--log-filter", "error"])
        .args(args)
        .arg(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = child.await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let heard = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{heard}", output.status);
    said
}

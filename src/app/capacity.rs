//! `capacity`: what a stream of orders takes, as a table or as JSON.

use std::fs;
use std::io::{self, Write};

use serde_json::json;

use super::AppError;
use crate::capacity::{Backlog, Costs, Demand, Limit, Machines, Needs, Part};
use crate::config;

pub(super) fn run(command: &config::Capacity, out: &mut impl Write) -> Result<(), AppError> {
    let (demand, machines) = (command.demand(), command.machines());
    let costs = match &command.results {
        Some(path) => {
            let wrong =
                |error: &dyn std::error::Error| AppError::Setting("--results", format!("{}: {error}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
            Costs::of_results(&text).map_err(|error| wrong(&error))?
        }
        None => Costs::MEASURED,
    };
    let (needs, limits) = (demand.needs(&costs), demand.limits(&machines, &costs));
    let backlog = demand.backlog(&machines, &costs);
    if command.json {
        let all = json!({"demand": demand, "needs": needs, "machines": machines, "limits": limits, "backlog": backlog});
        writeln!(out, "{all:#}")?;
    } else {
        show(out, &demand, &needs)?;
        show_limits(out, &machines, &limits, backlog)?;
    }
    Ok(())
}

fn show(out: &mut impl Write, demand: &Demand, needs: &Needs) -> io::Result<()> {
    let mut line = |part: &str, takes: String| writeln!(out, "{part:<14} {takes}");
    line(
        "asked",
        format!(
            "{} orders/s, {} of them accepted, {} reads/s, for {} min",
            count(demand.rate),
            count(needs.accepted_rate),
            count(demand.reads),
            count(demand.lasts_s / 60.0)
        ),
    )?;
    line("gateways", format!("{:.1} cores", needs.gateway_cores))?;
    line(
        "redis",
        format!(
            "{}, {} for what the sales of one time know",
            nodes(needs.redis_nodes),
            bytes(needs.redis_bytes)
        ),
    )?;
    line(
        "postgres",
        format!(
            "{:.1} cores, {} rows/s, {}/s of log",
            needs.postgres_cores,
            count(needs.postgres_rows_rate),
            bytes(needs.wal_rate)
        ),
    )?;
    line(
        "disk",
        format!(
            "{} of ledger for good, {} of it and of keys hot, {} of catalogue",
            bytes(needs.ledger_bytes),
            bytes(needs.hot_bytes),
            bytes(needs.catalogue_bytes)
        ),
    )
}

fn show_limits(out: &mut impl Write, machines: &Machines, limits: &[Limit], backlog: Backlog) -> io::Result<()> {
    writeln!(out, "\nWhat there is serves, the first to be full first:")?;
    for limit in limits {
        let has = match limit.part {
            Part::Gateways => format!("gateways, {} cores", machines.gateway_cores),
            Part::Redis => format!("redis, {}", nodes(machines.redis_nodes)),
            Part::Postgres => format!("postgres, {} cores", machines.postgres_cores),
        };
        writeln!(
            out,
            "  {has:<22} {:>12} orders/s; moved by {}",
            count(limit.rate),
            limit.moved_by
        )?;
    }
    if backlog.waiting > 0.0 {
        writeln!(
            out,
            "\nPostgres falls behind: {} reservations wait in the queues at the end, and are durable {} s after it.",
            count(backlog.waiting),
            count(backlog.drained_after_s)
        )?;
    }
    Ok(())
}

fn nodes(number: f64) -> String {
    match count(number).as_str() {
        "1" => "1 node".to_owned(),
        many => format!("{many} nodes"),
    }
}

/// Whole, in groups of three.
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn bytes(number: f64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut number = number;
    let mut unit = 0;
    while number >= 1_000.0 && unit + 1 < UNITS.len() {
        number /= 1_000.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

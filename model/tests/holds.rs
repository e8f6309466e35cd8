//! The protocol as it is keeps every property under all these bounds: in each state that can be reached, and with a way
//! to rest from each.

use protocol_model::{Config, Protocol, scenario, search};

fn holds(name: &str, config: Config) {
    let outcome = search(&Protocol { config });
    println!("{name}: {} states, {} at rest", outcome.states, outcome.resting);
    if let Some(violation) = outcome.violation {
        let trace: Vec<String> = violation.trace.iter().map(ToString::to_string).collect();
        panic!("{name}: not so: {}\n  {}", violation.property, trace.join("\n  "));
    }
    assert!(outcome.resting > 1, "{name}: nothing ever came of it");
}

macro_rules! hold {
    ($($scenario:ident),* $(,)?) => {
        $(
            #[test]
            fn $scenario() {
                holds(stringify!($scenario), scenario::$scenario());
            }
        )*
    };
}

hold!(
    two_owners,
    repeated,
    repeated_to_older_data,
    older_data,
    forked,
    grants_and_older_data,
    grants_in_doubt,
    empty_redis,
    restarted_redis,
    uncalled_recovery,
    two_recoverers,
    three_recoverers,
    two_recoverers_and_older_data,
    two_recoverers_and_empty_redis,
    two_movers,
    mover,
    mover_and_recovery,
    mover_and_stop,
    stop,
    endings,
    silence,
    ledger_falls_back,
);

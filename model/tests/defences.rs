//! With any one defence left out, the search finds what it is for, and prints the shortest way there.

use protocol_model::Defence::*;
use protocol_model::{
    ACCEPTED, CONSERVATION, Config, DURABLE, Defence, NO_DRIFT, NO_FALSE_SOLD_OUT, NO_OVERSELL, NO_ROBBERY, ONCE,
    Protocol, SAME, STUCK, scenario, search,
};

fn broken(config: Config, property: &str) {
    let what = format!("{:?}", config.without);
    let outcome = search(&Protocol { config });
    let Some(violation) = outcome.violation else {
        panic!("{what}: nothing is found in {} states", outcome.states);
    };
    println!(
        "without {what}, after {} states, not so: {}",
        outcome.states, violation.property
    );
    for step in &violation.trace {
        println!("  {step}");
    }
    assert_eq!(violation.property, property, "{what}");
}

macro_rules! break_without {
    ($($test:ident: $defence:ident in $scenario:ident breaks $property:ident;)*) => {
        $(
            #[test]
            fn $test() {
                broken(scenario::$scenario().without($defence), $property);
            }
        )*

        /// Every defence that the model knows has its test.
        #[test]
        fn each_defence_is_left_out_once() {
            let tested = [$($defence),*];
            assert!(Defence::ALL.iter().all(|defence| tested.contains(defence)), "{tested:?}");
        }
    };
}

break_without! {
    epoch_raised_first_in_the_ledger: EpochFirst in two_recoverers breaks STUCK;
    close_before_collecting: CloseFirst in uncalled_recovery breaks ACCEPTED;
    cursor_compared_and_set: CursorCompared in two_owners breaks NO_DRIFT;
    nonces_in_cursor_chain_and_notice: Nonces in older_data breaks DURABLE;
    seen_fence: SeenFence in older_data breaks ACCEPTED;
    grants_that_are_known_are_skipped: KnownGrantsSkipped in two_owners breaks ACCEPTED;
    gaps_before_grants_are_refused: GapsRefused in grants_in_doubt breaks STUCK;
    survivors_only_as_far_as_units_suffice: UnitsSuffice in older_data breaks NO_OVERSELL;
    late_numbers_under_the_sales_lock: NumberedLate in stop breaks STUCK;
    no_expiry_after_the_last_beat: PulseFirst in silence breaks NO_ROBBERY;
    recoverer_looks_again_before_it_opens: RecheckedToOpen in two_recoverers breaks NO_DRIFT;
    recoverer_looks_again_and_no_one_buys: RecheckedToOpen in three_recoverers breaks SAME;
    mover_reads_twice: ReadTwice in mover breaks NO_FALSE_SOLD_OUT;
    mover_asks_what_is_in_motion: MotionAsked in mover breaks NO_FALSE_SOLD_OUT;
    endings_ask_the_status_under_the_lock: StatusAsked in endings breaks CONSERVATION;
    keys_are_claimed_in_the_ledger: KeysClaimed in repeated_to_older_data breaks ONCE;
    buyers_are_recorded_in_the_lane: BuyersRecorded in repeated breaks ACCEPTED;
    an_owner_says_that_its_lane_is_gone: GoneNoticed in empty_redis breaks STUCK;
    an_idle_writer_asks_the_ledger: IdleLedgerAsked in ledger_falls_back breaks STUCK;
    a_fork_is_remembered: ForkRemembered in grants_and_older_data breaks STUCK;
    an_idle_granter_asks_the_lane: InForceAsked in grants_and_older_data breaks STUCK;
    numbers_that_were_forgotten_are_known_by_content: KnownByContent in ledger_falls_back breaks ACCEPTED;
}

/// What is not promised: where Postgres forgets (a standby that is not synchronous takes over), what it forgot of one
/// lane may be missing for another, which has units that the ledger never sent. The model knows.
#[test]
fn a_ledger_that_forgets_a_move_may_refuse_who_bought_what_was_moved() {
    broken(scenario::ledger_falls_back_under_a_mover(), ACCEPTED);
}

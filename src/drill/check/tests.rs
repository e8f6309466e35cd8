//! The judge is judged: what can be true is not accused, and whatever is planted is found, by the check whose it is.

use std::collections::BTreeSet;
use std::env;

use proptest::prelude::*;

use super::planted::PLANTED;
use super::sim::{Sim, simulate};
use super::{Bounds, Check, Verdict, judge};

fn judged(sim: &Sim) -> Verdict {
    judge(&sim.history, &sim.account, &Bounds::default())
}

fn broken(verdict: &Verdict) -> BTreeSet<Check> {
    verdict.violations.iter().map(|violation| violation.check).collect()
}

#[test]
fn a_true_history_is_clean_and_every_check_has_looked() {
    let verdict = judged(&simulate(1, 2_000, 200, 300));
    assert_eq!(verdict.violations, []);
    let idle: Vec<Check> = verdict
        .checked
        .iter()
        .filter(|of| of.compared == 0)
        .map(|of| of.check)
        .collect();
    assert_eq!(idle, [], "{:?}", verdict.checked);
}

#[test]
fn whatever_is_planted_is_found_by_its_check_alone() {
    for (what, check, plant) in PLANTED {
        // The first history that gives occasion for it.
        let planted = (0..50).find_map(|seed| {
            let mut sim = simulate(seed, 600, 60, 50);
            plant(&mut sim.history, &mut sim.account).map(|()| sim)
        });
        let verdict = judged(&planted.unwrap_or_else(|| panic!("no history gives occasion: {what}")));
        assert_eq!(
            broken(&verdict),
            BTreeSet::from([check]),
            "{what}: {:#?}",
            verdict.violations
        );
        let found: u64 = verdict.checked.iter().map(|of| of.found).sum();
        assert_eq!(verdict.violations.len(), usize::try_from(found).expect("few"), "{what}");
    }
}

#[test]
fn only_so_many_violations_are_named_and_all_are_counted() {
    let mut sim = simulate(1, 2_000, 200, 300);
    let again = sim.account.reservations.clone();
    assert!(again.len() > 100);
    sim.account.reservations.extend(again.iter().cloned());
    let verdict = judged(&sim);
    assert_eq!(verdict.violations.len(), 100);
    assert_eq!(verdict.checked[1].found, u64::try_from(again.len()).expect("few"));
}

/// `CHECK_OPERATIONS` sizes it: a million take as long as ten times a hundred thousand.
#[test]
fn a_long_history_is_judged() {
    let steps = env::var("CHECK_OPERATIONS").map_or(100_000, |text| text.parse().expect("a number"));
    let units = i64::try_from(steps / 10).expect("few");
    let sim = simulate(7, steps, units, steps / 4);
    assert!(sim.history.operations.len() > steps / 2);
    let verdict = judged(&sim);
    assert_eq!(verdict.violations, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_truth_is_accused_and_no_plant_escapes(
        seed: u64, steps in 0usize..400, units in 1i64..80, users in 1usize..60, plant in 0..PLANTED.len(),
    ) {
        let mut sim = simulate(seed, steps, units, users);
        let verdict = judged(&sim);
        prop_assert!(verdict.is_clean(), "{:#?}", verdict.violations);
        let (what, check, plant) = PLANTED[plant];
        if plant(&mut sim.history, &mut sim.account).is_some() {
            let verdict = judged(&sim);
            prop_assert!(broken(&verdict).contains(&check), "{what}: {:#?}", verdict.violations);
        }
    }
}

//! The guard's figures: what is compared, with what the repository keeps of it, and what is too little.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::Failure;
use crate::figures::{Round, Spread};

/// Where the ratios are kept.
pub(crate) const REFERENCE: &str = "loadtest/guard.json";
/// What writes them.
pub(crate) const SAVE: &str = "scripts/bench.sh --guard --save";
/// The share of its reference that a ratio must reach.
const SHARE_LEAST: f64 = 2.0 / 3.0;
/// Who is held against the no-op handler.
pub(crate) const GUARDED: [&str; 4] = ["accepted", "read", "durable.512", "sold-out"];
/// Where others use more of the machine than this share (the median of the rounds), ratios of rates say more about them
/// than about the gateway, and only CPU time is judged.
pub(crate) const OTHERS_MAX: f64 = 0.25;
/// What a ratio of rates is called.
const RATE: &str = "answers/s";
/// What one of CPU time is called.
pub(crate) const CPU: &str = "answers/CPU s";

/// A ratio beside its reference.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    pub(crate) name: String,
    pub(crate) reference: f64,
    pub(crate) measured: Spread,
}

impl Compared {
    /// How much of its reference is left.
    pub(crate) fn share(&self) -> f64 {
        self.measured.median / self.reference
    }

    /// Whether it counts on a machine of which others use this share.
    pub(crate) fn counts(&self, others: f64) -> bool {
        others <= OTHERS_MAX || self.name.ends_with(CPU)
    }

    /// Whether that is too little.
    pub(crate) fn dropped(&self) -> bool {
        self.share() < SHARE_LEAST
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<28}{:>11.3}{:>10.3}{:>7.0} %  {:.3} to {:.3}",
            self.name,
            self.reference,
            self.measured.median,
            self.share() * 100.0,
            self.measured.min,
            self.measured.max
        )
    }
}

/// Each measured ratio beside its reference.
///
/// # Errors
/// They are not the same figures.
pub(crate) fn compare(
    reference: &BTreeMap<String, f64>,
    measured: &BTreeMap<String, Spread>,
) -> Result<Vec<Compared>, Failure> {
    if let Some(name) = reference.keys().find(|name| !measured.contains_key(*name)) {
        return Err(format!("{REFERENCE} has {name}, which is not measured (any more): {SAVE} writes it anew").into());
    }
    let beside = |(name, measured): (&String, &Spread)| {
        let reference = reference.get(name).copied().filter(|reference| *reference > 0.0);
        let reference = reference.ok_or_else(|| format!("{REFERENCE} lacks {name}: {SAVE} writes it anew"))?;
        Ok(Compared {
            name: name.clone(),
            reference,
            measured: *measured,
        })
    };
    measured.iter().map(beside).collect()
}

/// Of what had dropped, what has again, or can't be told of: others were busy when it was measured once more.
pub(crate) fn still_dropped(before: Vec<Compared>, again: &[Compared], others: f64) -> Vec<Compared> {
    let look = |before: Compared| match again.iter().find(|now| now.name == before.name) {
        Some(now) if now.counts(others) => now.dropped().then(|| now.clone()),
        _ => Some(before),
    };
    before.into_iter().filter_map(look).collect()
}

/// What is compared: of each contender the rate over that of the no-op handler; and its CPU time, over what gateway and
/// servers spent on an answer. More is better, of both.
pub(crate) fn ratios(rounds: &[Round]) -> BTreeMap<String, Spread> {
    let mut ratios = BTreeMap::new();
    for who in GUARDED {
        let rate = |round: &Round| round.ratio(&format!("{who}.rate"), &format!("{who}.no_op_rate"));
        let cpu = |round: &Round| {
            let spent = ["gateway_us", "redis_us", "postgres_us"].map(|what| round.get(&format!("{who}.{what}")));
            let spent: Option<Vec<f64>> = spent.into_iter().collect();
            Some(round.get(&format!("{who}.no_op_us"))? / spent?.into_iter().sum::<f64>())
        };
        let mut put = |what: &str, figures: Vec<f64>| {
            if let Some(spread) = Spread::of(figures) {
                ratios.insert(format!("{who}, {what}"), spread);
            }
        };
        put(RATE, rounds.iter().filter_map(rate).collect());
        put(CPU, rounds.iter().filter_map(cpu).collect());
    }
    ratios
}

/// What the repository keeps.
pub(crate) struct Reference {
    /// Of the machine that it was measured on: with more of them the load generator holds back the no-op handler first,
    /// and every ratio is another.
    pub(crate) cores: usize,
    /// By figure.
    pub(crate) medians: BTreeMap<String, f64>,
}

/// # Errors
/// There is none, or it is not one.
pub(crate) fn read(path: &Path) -> Result<Reference, Failure> {
    #[derive(Deserialize)]
    struct Kept {
        machine: KeptMachine,
        ratios: BTreeMap<String, KeptRatio>,
    }
    #[derive(Deserialize)]
    struct KeptMachine {
        cores: usize,
    }
    #[derive(Deserialize)]
    struct KeptRatio {
        median: f64,
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{REFERENCE}: {error}; {SAVE} writes it"))?;
    let kept: Kept = serde_json::from_str(&text).map_err(|error| format!("{REFERENCE}: {error}"))?;
    let medians = kept.ratios.into_iter().map(|(name, ratio)| (name, ratio.median));
    Ok(Reference {
        cores: kept.machine.cores,
        medians: medians.collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::{Compared, GUARDED, compare, ratios, read, still_dropped};
    use crate::figures::{Round, Spread};

    /// A round in which each contender has half of the no-op handler's rate at four times its CPU time, but for the
    /// share that is left of the sold-out rate.
    fn round(left: f64) -> Round {
        let mut round = Round::default();
        for who in GUARDED {
            round.put(format!("{who}.no_op_rate"), 90_000.0);
            round.put(format!("{who}.no_op_us"), 10.0);
            round.put(format!("{who}.rate"), 45_000.0);
            round.put(format!("{who}.gateway_us"), 20.0);
            round.put(format!("{who}.redis_us"), 5.0);
            round.put(format!("{who}.postgres_us"), 15.0);
        }
        round.put("sold-out.rate", 45_000.0 * left);
        round
    }

    fn medians(ratios: &BTreeMap<String, Spread>) -> BTreeMap<String, f64> {
        let median = |(name, spread): (&String, &Spread)| (name.clone(), spread.median);
        ratios.iter().map(median).collect()
    }

    fn dropped(left: f64) -> Vec<String> {
        let reference = medians(&ratios(&[round(1.0)]));
        let compared = compare(&reference, &ratios(&[round(left)])).expect("the same figures");
        assert_eq!(compared.len(), GUARDED.len() * 2);
        let dropped = compared.into_iter().filter(Compared::dropped);
        dropped.map(|figure| figure.name).collect()
    }

    #[test]
    fn a_drop_of_more_than_a_third_is_named() {
        assert_eq!(dropped(0.6), ["sold-out, answers/s"], "40 % less");
    }

    #[test]
    fn a_smaller_one_passes() {
        for left in [0.8, 0.67, 1.0, 1.6] {
            assert!(dropped(left).is_empty(), "{left}");
        }
    }

    #[test]
    fn on_a_busy_machine_only_cpu_time_counts() {
        let reference = medians(&ratios(&[round(1.0)]));
        let compared = compare(&reference, &ratios(&[round(0.6)])).expect("the same figures");
        let counted = |others: f64| compared.iter().filter(|figure| figure.counts(others)).count();
        assert_eq!((counted(0.2), counted(0.4)), (GUARDED.len() * 2, GUARDED.len()));
        assert!(compared.iter().all(|figure| !figure.dropped() || !figure.counts(0.4)));
    }

    #[test]
    fn what_can_not_be_judged_again_stays_dropped() {
        let reference = medians(&ratios(&[round(1.0)]));
        let at = |left| compare(&reference, &ratios(&[round(left)])).expect("the same figures");
        let dropped = || -> Vec<Compared> { at(0.6).into_iter().filter(Compared::dropped).collect() };
        assert_eq!(still_dropped(dropped(), &at(1.0), 0.1).len(), 0, "it was a moment");
        assert_eq!(still_dropped(dropped(), &at(0.6), 0.1).len(), 1, "it was not");
        assert_eq!(still_dropped(dropped(), &at(1.0), 0.9).len(), 1, "others were busy");
    }

    #[test]
    fn one_bad_round_of_three_does_not_count() {
        let reference = medians(&ratios(&[round(1.0)]));
        let compared = compare(&reference, &ratios(&[round(1.0), round(0.1), round(0.9)])).expect("the same figures");
        assert!(!compared.iter().any(Compared::dropped));
    }

    #[test]
    fn a_figure_that_is_on_one_side_alone_is_an_error() {
        let measured = ratios(&[round(1.0)]);
        let mut reference = medians(&measured);
        let ratio = reference.remove("sold-out, answers/s").expect("is measured");
        let refused = compare(&reference, &measured).expect_err("lacks it").to_string();
        assert!(refused.contains("lacks sold-out, answers/s"), "{refused}");
        reference.insert("sold-out, answers/s".to_owned(), 0.0);
        assert!(
            compare(&reference, &measured).is_err(),
            "nothing is any share of nothing"
        );
        reference.insert("sold-out, answers/s".to_owned(), ratio);
        reference.insert("forgotten".to_owned(), 1.0);
        let refused = compare(&reference, &measured).expect_err("not measured").to_string();
        assert!(refused.contains("has forgotten"), "{refused}");
    }

    #[test]
    fn the_kept_reference_has_what_is_measured() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard.json");
        let kept = read(&path).expect("a reference");
        compare(&kept.medians, &ratios(&[round(1.0)])).expect("the same figures");
    }
}

//! How each buyer ends: by shares and a seed. Pure and without state, so the
//! order in which buyers arrive does not change what any of them does, and the k6
//! script (`k6/plan.ts`) makes the same buyers.

use std::str::FromStr;

/// What a buyer does with a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Pays.
    Commit,
    /// Gives the units back.
    Release,
    /// Closes the page; the units come back when the reservation expires.
    Walk,
}

/// How many of every `commit + release + walk` buyers end which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    commit: u32,
    release: u32,
    walk: u32,
}

impl Shares {
    /// How buyer `n` ends under `seed`.
    pub(crate) fn ending(self, seed: u32, n: u32) -> Ending {
        let draw = mix(seed, n) % (self.commit + self.release + self.walk);
        if draw < self.commit {
            Ending::Commit
        } else if draw < self.commit + self.release {
            Ending::Release
        } else {
            Ending::Walk
        }
    }
}

impl FromStr for Shares {
    type Err = String;

    /// Parses `commit/release/walk`: whole numbers up to 999,999, so that their
    /// sum stays far below 2^32.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected commit/release/walk such as 60/20/20, got \"{text}\"");
        let parts: Vec<u32> = text
            .split('/')
            .map(|part| {
                let digits = (1..=6).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| part.parse().ok()).flatten().ok_or_else(refused)
            })
            .collect::<Result<_, _>>()?;
        match parts[..] {
            [commit, release, walk] if commit + release + walk > 0 => Ok(Self { commit, release, walk }),
            _ => Err(refused()),
        }
    }
}

/// An even 32-bit number for buyer `n` under `seed`: MurmurHash3's finalizer over
/// a golden-ratio walk.
fn mix(seed: u32, n: u32) -> u32 {
    let mut x = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Ending, Shares, mix};

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../vectors.json")).expect("vectors.json is JSON")
    }

    fn number(value: &Value) -> u32 {
        value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .expect("a 32-bit number")
    }

    #[test]
    fn the_same_seed_draws_the_same_numbers_as_the_k6_script() {
        for vector in vectors()["mix"].as_array().expect("a list") {
            let drawn = mix(number(&vector["seed"]), number(&vector["n"]));
            assert_eq!(drawn, number(&vector["value"]), "{vector}");
        }
    }

    #[test]
    fn the_same_seed_ends_the_same_buyers_the_same_way() {
        for vector in vectors()["endings"].as_array().expect("a list") {
            let shares: Shares = vector["shares"].as_str().expect("text").parse().expect("good shares");
            let first = vector["first"].as_str().expect("text");
            let ended: String = (0..)
                .take(first.len())
                .map(|n| match shares.ending(number(&vector["seed"]), n) {
                    Ending::Commit => 'c',
                    Ending::Release => 'r',
                    Ending::Walk => 'w',
                })
                .collect();
            assert_eq!(ended, first, "{vector}");
        }
    }

    #[test]
    fn shares_that_mean_nothing_are_refused() {
        for text in vectors()["sharesRefused"].as_array().expect("a list") {
            let text = text.as_str().expect("text");
            assert!(text.parse::<Shares>().is_err(), "{text:?}");
        }
    }
}

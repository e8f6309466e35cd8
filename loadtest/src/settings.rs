//! What is bought, by whom, and what proves the ledger: from the environment,
//! under the names that the k6 script uses. Checked before any load is made.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::plan::Shares;
use crate::verify;

/// The settings that goose has no options for.
#[derive(Debug)]
pub(crate) struct Settings {
    /// `BASE_URL`, the public listener; goose's `--host` goes before it.
    pub(crate) base_url: String,
    /// `SKU_ID`.
    pub(crate) sku_id: String,
    /// `LOCATION_ID`.
    pub(crate) location_id: String,
    /// `QUANTITY`: units in each reservation.
    pub(crate) quantity: u32,
    /// `USERS`: so many people take turns; 0: every buyer is another.
    pub(crate) users: u32,
    /// `SEED` of the endings.
    pub(crate) seed: u32,
    /// `SHARES`: commit/release/walk.
    pub(crate) shares: Shares,
    /// `RUN_ID`: part of every order id and key, so that no run replays another.
    pub(crate) run_id: String,
    /// `FAILED_MAX`: the share of buyers that may fail, not reached.
    pub(crate) failed_max: f64,
    /// `FLASHGATE_BIN`: what is run as `flashgate verify`.
    pub(crate) verifier: PathBuf,
}

impl Settings {
    /// # Errors
    /// Names the variable whose value can't be used.
    pub(crate) fn from_env() -> Result<Self, String> {
        Self::from_lookup(|name| env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let text = |name: &str, fallback: &str| {
            lookup(name)
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| fallback.to_owned())
        };
        let run_id = text("RUN_ID", &format!("goose-{:x}", now_ms()));
        Ok(Self {
            base_url: text("BASE_URL", "http://127.0.0.1:8080"),
            sku_id: text("SKU_ID", "demo-hot"),
            location_id: text("LOCATION_ID", "wh1"),
            quantity: parsed("QUANTITY", &text("QUANTITY", "1"))?,
            users: parsed("USERS", &text("USERS", "0"))?,
            seed: parsed("SEED", &text("SEED", "1"))?,
            shares: parsed("SHARES", &text("SHARES", "60/20/20"))?,
            run_id,
            failed_max: parsed("FAILED_MAX", &text("FAILED_MAX", "0.005"))?,
            verifier: lookup("FLASHGATE_BIN").map_or_else(verify::default_binary, PathBuf::from),
        })
    }
}

fn parsed<T: FromStr<Err: ToString>>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error: T::Err| format!("{name}={text}: {}", error.to_string()))
}

fn now_ms() -> u128 {
    // A clock before 1970 would only cost the run id its uniqueness.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis())
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn with(name: &'static str, value: &'static str) -> Result<Settings, String> {
        Settings::from_lookup(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn the_defaults_are_the_demo_sale() {
        let settings = Settings::from_lookup(|_| None).expect("defaults are good");
        assert_eq!(settings.sku_id, "demo-hot");
        assert_eq!(settings.location_id, "wh1");
        assert_eq!(settings.quantity, 1);
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        assert_eq!(with("SKU_ID", "").expect("a default").sku_id, "demo-hot");
    }

    #[test]
    fn a_wrong_value_is_refused_by_name() {
        for (name, value) in [("QUANTITY", "many"), ("SHARES", "60/40"), ("FAILED_MAX", "low")] {
            let error = with(name, value).expect_err("refused");
            assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
        }
    }
}

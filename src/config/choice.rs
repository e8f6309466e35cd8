//! How a location is chosen where a request names none: what each measure costs, in points.

use clap::Args;

use crate::domain::choice::Weights;

/// The largest weight: beyond, one measure decides anyway.
const WEIGHT_MAX: f64 = 1_000_000.0;

/// Weights; the location with the fewest points is chosen.
#[derive(Clone, Copy, Debug, Args)]
#[group(skip)]
pub(super) struct Choice {
    /// Points of a location for 100 km to the destination; another region counts as 1,000 km
    #[arg(long, env = "FLASHGATE_CHOICE_DISTANCE", value_name = "POINTS", default_value_t = 1.0, value_parser = weight)]
    choice_distance: f64,

    /// Points of a location for one of the shop's currency per parcel
    #[arg(long, env = "FLASHGATE_CHOICE_SHIPPING_COST", value_name = "POINTS", default_value_t = 1.0, value_parser = weight)]
    choice_shipping_cost: f64,

    /// Points of a location for a day from order to hand-over
    #[arg(long, env = "FLASHGATE_CHOICE_HANDLING", value_name = "POINTS", default_value_t = 1.0, value_parser = weight)]
    choice_handling: f64,

    /// Points of a location whose capacity of the day is used up; half used, half the points
    #[arg(long, env = "FLASHGATE_CHOICE_CAPACITY", value_name = "POINTS", default_value_t = 1.0, value_parser = weight)]
    choice_capacity: f64,

    /// Points taken off a location for one step of its priority
    #[arg(long, env = "FLASHGATE_CHOICE_PRIORITY", value_name = "POINTS", default_value_t = 1.0, value_parser = weight)]
    choice_priority: f64,
}

impl Choice {
    pub(super) fn weights(self) -> Weights {
        Weights {
            distance: self.choice_distance,
            shipping_cost: self.choice_shipping_cost,
            handling: self.choice_handling,
            capacity: self.choice_capacity,
            priority: self.choice_priority,
        }
    }
}

fn weight(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|weight| (0.0..=WEIGHT_MAX).contains(weight))
        .ok_or_else(|| format!("must be a number from 0 to {WEIGHT_MAX}"))
}

//! Which location serves a line whose caller names none. No I/O: facts in, an order out.
//!
//! Each location costs points, and the cheapest is best. A weight says what one unit of its measure costs: 100 km to
//! the destination, one of the shop's currency per parcel, a day from order to hand-over, a day's capacity used up; and
//! what one step of priority takes off. What is not known of a location counts as the worst that is known of another,
//! so that knowing nothing is never an advantage. Equal ones stand in order of their ids.

use std::cmp::Ordering;

use super::id::LocationId;

/// Mean radius of the earth, in km.
const EARTH_KM: f64 = 6_371.0;
/// How far another region counts, in km.
const OTHER_REGION_KM: f64 = 1_000.0;

/// What each measure costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Points for 100 km.
    pub distance: f64,
    /// Points for one of the shop's currency.
    pub shipping_cost: f64,
    /// Points for a day from order to hand-over.
    pub handling: f64,
    /// Points for a day's capacity that is used up.
    pub capacity: f64,
    /// Points taken off for one step of priority.
    pub priority: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights {
            distance: 1.0,
            shipping_cost: 1.0,
            handling: 1.0,
            capacity: 1.0,
            priority: 1.0,
        }
    }
}

/// A point on the earth, in degrees north and east.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// -90 to 90.
    pub latitude: f64,
    /// -180 to 180.
    pub longitude: f64,
}

/// Where the parcel goes.
#[derive(Clone, Debug, PartialEq)]
pub enum ShipTo {
    /// To a point.
    Point(Point),
    /// To a region, as locations name theirs.
    Region(String),
}

/// How much a location can ship.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Parcels a day.
    pub daily: i64,
    /// Parcels of today.
    pub used: i64,
}

/// What is known of a location.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Its id.
    pub location: LocationId,
    /// The region that it serves.
    pub region: String,
    /// Where it is.
    pub point: Option<Point>,
    /// Per parcel, in the shop's currency.
    pub shipping_cost: Option<f64>,
    /// From order to hand-over, in hours.
    pub handling_hours: Option<f64>,
    /// How much it can ship; none: no bound is known.
    pub capacity: Option<Capacity>,
    /// Higher is preferred.
    pub priority: i32,
}

impl Facts {
    fn distance_km(&self, to: Option<&ShipTo>) -> Option<f64> {
        match to? {
            ShipTo::Point(to) => self.point.map(|from| distance_km(from, *to)),
            ShipTo::Region(region) if *region == self.region => Some(0.0),
            ShipTo::Region(_) => Some(OTHER_REGION_KM),
        }
    }

    /// The part of a day's capacity that is used up; a location without a bound never gets there.
    fn used(&self) -> f64 {
        let Some(Capacity { daily, used }) = self.capacity else {
            return 0.0;
        };
        if daily <= used {
            return 1.0;
        }
        to_float(used.max(0)) / to_float(daily)
    }
}

/// The places of `all`, best first.
#[must_use]
pub fn rank(all: &[Facts], to: Option<&ShipTo>, weights: &Weights) -> Vec<usize> {
    let distances = known_or_worst(all.iter().map(|facts| facts.distance_km(to)));
    let costs = known_or_worst(all.iter().map(|facts| facts.shipping_cost));
    let hours = known_or_worst(all.iter().map(|facts| facts.handling_hours));
    let points = |at: usize| {
        weights.distance * distances[at] / 100.0
            + weights.shipping_cost * costs[at]
            + weights.handling * hours[at] / 24.0
            + weights.capacity * all[at].used()
            - weights.priority * f64::from(all[at].priority)
    };
    let mut order: Vec<(f64, usize)> = (0..all.len()).map(|at| (points(at), at)).collect();
    order.sort_by(|(a, i), (b, j)| {
        let by_points = a.partial_cmp(b).unwrap_or(Ordering::Equal);
        by_points.then_with(|| all[*i].location.cmp(&all[*j].location))
    });
    order.into_iter().map(|(_, at)| at).collect()
}

/// `quantity` spread over places with these free units, in this order, each giving what it has; none where all of them
/// together have too few.
#[must_use]
pub fn split(free: impl IntoIterator<Item = i64>, quantity: i64) -> Option<Vec<(usize, i64)>> {
    let mut missing = quantity;
    let mut shares = Vec::new();
    for (at, free) in free.into_iter().enumerate() {
        let share = free.min(missing);
        if share > 0 {
            shares.push((at, share));
            missing -= share;
        }
    }
    (missing <= 0).then_some(shares)
}

fn known_or_worst(values: impl Iterator<Item = Option<f64>>) -> Vec<f64> {
    let values: Vec<Option<f64>> = values.collect();
    let worst = values.iter().flatten().copied().fold(0.0, f64::max);
    values.into_iter().map(|value| value.unwrap_or(worst)).collect()
}

/// The great-circle distance, by the haversine formula.
fn distance_km(a: Point, b: Point) -> f64 {
    let (north_a, north_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let half = |a: f64, b: f64| ((b - a) / 2.0).sin().powi(2);
    let chord = half(north_a, north_b)
        + north_a.cos() * north_b.cos() * half(a.longitude.to_radians(), b.longitude.to_radians());
    2.0 * EARTH_KM * chord.sqrt().min(1.0).asin()
}

/// Parcels of a day are few enough for an exact float.
fn to_float(parcels: i64) -> f64 {
    f64::from(i32::try_from(parcels).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: Point = Point {
        latitude: 52.52,
        longitude: 13.405,
    };
    const PARIS: Point = Point {
        latitude: 48.857,
        longitude: 2.352,
    };

    fn facts(id: &str) -> Facts {
        Facts {
            location: LocationId::try_from(id).expect("an id"),
            region: "eu".to_owned(),
            point: None,
            shipping_cost: None,
            handling_hours: None,
            capacity: None,
            priority: 0,
        }
    }

    fn ranked(all: &[Facts], to: Option<ShipTo>, weights: Weights) -> Vec<&str> {
        let order = rank(all, to.as_ref(), &weights);
        order.into_iter().map(|at| all[at].location.as_str()).collect()
    }

    #[test]
    fn a_distance_is_that_of_the_atlas() {
        let km = distance_km(BERLIN, PARIS);
        assert!((870.0..885.0).contains(&km), "{km}");
        assert!(distance_km(PARIS, PARIS) < 1e-6);
        let antipodes = distance_km(
            Point {
                latitude: 0.0,
                longitude: 0.0,
            },
            Point {
                latitude: 0.0,
                longitude: 180.0,
            },
        );
        assert!((20_000.0..20_030.0).contains(&antipodes), "{antipodes}");
    }

    #[test]
    fn each_measure_decides_alone() {
        let near = Facts {
            point: Some(BERLIN),
            ..facts("z")
        };
        let far = Facts {
            point: Some(PARIS),
            ..facts("a")
        };
        let to = Some(ShipTo::Point(BERLIN));
        assert_eq!(
            ranked(&[far.clone(), near.clone()], to.clone(), Weights::default()),
            ["z", "a"]
        );
        let blind = Weights {
            distance: 0.0,
            ..Weights::default()
        };
        assert_eq!(
            ranked(&[near, far], to, blind),
            ["a", "z"],
            "a weight of 0 leaves the measure out"
        );

        let here = Facts {
            region: "de".to_owned(),
            ..facts("z")
        };
        let region = Some(ShipTo::Region("de".to_owned()));
        assert_eq!(ranked(&[facts("a"), here], region, Weights::default()), ["z", "a"]);

        let with = |change: fn(&mut Facts)| {
            let mut better = facts("z");
            change(&mut better);
            let mut worse = facts("a");
            worse.shipping_cost = Some(5.0);
            worse.handling_hours = Some(48.0);
            worse.capacity = Some(Capacity { daily: 10, used: 9 });
            better.shipping_cost = better.shipping_cost.or(Some(5.0));
            better.handling_hours = better.handling_hours.or(Some(48.0));
            better.capacity = better.capacity.or(worse.capacity);
            ranked(&[worse, better], None, Weights::default()) == ["z", "a"]
        };
        assert!(with(|better| better.shipping_cost = Some(4.0)));
        assert!(with(|better| better.handling_hours = Some(12.0)));
        assert!(with(|better| better.capacity = Some(Capacity { daily: 10, used: 1 })));
        assert!(with(|better| better.priority = 1));
    }

    #[test]
    fn ties_stand_in_order_of_their_ids_whatever_order_they_come_in() {
        let all = [facts("b"), facts("c"), facts("a")];
        assert_eq!(ranked(&all, None, Weights::default()), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_not_known_is_no_advantage() {
        let known = Facts {
            shipping_cost: Some(3.0),
            ..facts("b")
        };
        let dear = Facts {
            shipping_cost: Some(9.0),
            ..facts("c")
        };
        assert_eq!(
            ranked(&[facts("a"), known, dear], None, Weights::default()),
            ["b", "a", "c"]
        );
    }

    #[test]
    fn capacity_that_is_used_up_counts_in_full() {
        let full = Facts {
            capacity: Some(Capacity { daily: 0, used: 0 }),
            ..facts("a")
        };
        let over = Facts {
            capacity: Some(Capacity { daily: 5, used: 9 }),
            ..facts("b")
        };
        assert_eq!(
            ranked(&[full, over, facts("c")], None, Weights::default()),
            ["c", "a", "b"]
        );
    }

    #[test]
    fn a_line_is_split_over_the_best_first() {
        assert_eq!(split([2, 0, 5], 4), Some(vec![(0, 2), (2, 2)]));
        assert_eq!(split([9], 4), Some(vec![(0, 4)]));
        assert_eq!(split([1, 2], 4), None);
        assert_eq!(split([-3, 2], 2), Some(vec![(1, 2)]));
    }
}

//! Latencies by their size, to one part in a hundred: half an hour of them takes as little room as a second.

/// Each bucket's bound over the one before it.
const STEP: f64 = 1.01;
/// The last bucket ends after some minutes.
const BUCKETS: usize = 2_000;

/// Counts by bucket.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    /// Upper bounds, in µs.
    bounds: Vec<f64>,
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let bounds: Vec<f64> = std::iter::successors(Some(10.0), |bound| Some(bound * STEP))
            .take(BUCKETS)
            .collect();
        Histogram {
            counts: vec![0; bounds.len()],
            bounds,
            total: 0,
        }
    }
}

impl Histogram {
    /// Counts a latency in µs.
    pub(crate) fn add(&mut self, micros: u32) {
        let at = self.bounds.partition_point(|bound| *bound < f64::from(micros));
        self.counts[at.min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    /// A percentile in ms, from above; none of nothing.
    pub(crate) fn percentile_ms(&self, percent: u64) -> f64 {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        at.map_or(f64::NAN, |at| self.bounds[at] / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn a_percentile_is_right_to_a_hundredth() {
        let mut histogram = Histogram::default();
        assert!(histogram.percentile_ms(95).is_nan());
        (1..=1000).for_each(|ms| histogram.add(ms * 1000));
        for (percent, ms) in [(1, 10.0), (50, 500.0), (95, 950.0), (100, 1000.0)] {
            let told = histogram.percentile_ms(percent);
            assert!((ms..=ms * 1.01).contains(&told), "{percent}: {told}");
        }
        histogram.add(u32::MAX);
        assert!(histogram.percentile_ms(100) > 1000.0, "the last bucket takes the rest");
    }
}

//! A total from a sample of each group.

use serde::Serialize;

/// Bounds of a normal distribution between which 95 % lie.
const Z_95: f64 = 1.96;

/// A value and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

impl Interval {
    /// No total is negative.
    fn new(mean: f64, variance: f64) -> Self {
        let half = Z_95 * variance.sqrt();
        Self { mean, low: (mean - half).max(0.0), high: mean + half }
    }
}

/// What was found of one group of records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stratum {
    /// Records of the group.
    pub population: u64,
    /// Bytes of each that is known: 0 where no image will come.
    pub values: Vec<f64>,
    /// Asked for, and not known.
    pub unresolved: u64,
}

impl Stratum {
    fn num_asked(&self) -> f64 {
        self.values.len() as f64 + self.unresolved as f64
    }

    /// Records whose value would be known, were all asked for.
    fn known_population(&self) -> f64 {
        if self.values.is_empty() {
            0.0
        } else {
            self.population as f64 * self.values.len() as f64 / self.num_asked()
        }
    }

    /// Records whose value would not be known.
    pub fn unknown_population(&self) -> f64 {
        self.population as f64 - self.known_population()
    }

    pub fn mean(&self) -> Option<f64> {
        let count = self.values.len() as f64;
        (count > 0.0).then(|| self.values.iter().sum::<f64>() / count)
    }

    /// Of the total of those that are known. A lone value says nothing of its spread, which is then taken to be as
    /// large as itself; of all records nothing is left to chance.
    fn variance(&self) -> f64 {
        let (count, Some(mean)) = (self.values.len() as f64, self.mean()) else { return 0.0 };
        let spread = if count > 1.0 {
            self.values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)
        } else {
            mean.powi(2)
        };
        let left_out = (1.0 - self.num_asked() / self.population as f64).max(0.0);
        self.known_population().powi(2) * left_out * spread / count
    }

    /// The total over its records that would be known; `None` where none is.
    pub fn total(&self) -> Option<Interval> {
        Some(Interval::new(self.known_population() * self.mean()?, self.variance()))
    }
}

/// The total over all groups, each sampled by itself, and what is left out of it for want of a known value: records,
/// and their total if they are like the others.
pub(super) fn total(strata: &[Stratum]) -> (Interval, f64, f64) {
    let known: f64 = strata.iter().map(Stratum::known_population).sum();
    let mean: f64 = strata.iter().filter_map(|s| Some(s.known_population() * s.mean()?)).sum();
    let variance = strata.iter().map(Stratum::variance).sum();
    let overall = if known > 0.0 { mean / known } else { 0.0 };
    let unknown = strata.iter().map(Stratum::unknown_population).sum();
    let like_others = strata.iter().map(|s| s.unknown_population() * s.mean().unwrap_or(overall)).sum();
    (Interval::new(mean, variance), unknown, like_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stratum(population: u64, values: &[f64], unresolved: u64) -> Stratum {
        Stratum { population, values: values.to_vec(), unresolved }
    }

    #[test]
    fn all_records_leave_nothing_to_chance() {
        let all = stratum(3, &[1.0, 2.0, 6.0], 0);
        assert_eq!(all.total(), Some(Interval { mean: 9.0, low: 9.0, high: 9.0 }));
    }

    #[test]
    fn a_sample_has_the_textbook_interval() {
        // Mean 20, variance 100, of 100 records: 2000 ± 1.96 * sqrt(100² * 0.98 * 100 / 2).
        let half = 1.96 * (100.0_f64.powi(2) * 0.98 * 200.0 / 2.0).sqrt();
        let found = stratum(100, &[10.0, 30.0], 0).total().unwrap();
        assert_eq!(found.mean, 2000.0);
        assert!((found.high - 2000.0 - half).abs() < 1e-6 && (2000.0 - found.low - half).abs() < 1e-6);
        let (both, ..) = total(&[stratum(100, &[10.0, 30.0], 0), stratum(3, &[1.0, 2.0, 6.0], 0)]);
        assert!((both.mean - 2009.0).abs() < 1e-9 && (both.high - 2009.0 - half).abs() < 1e-6);
        assert!(stratum(10, &[5.0], 0).total().unwrap().low < 1.0, "one alone is no more than a hint");
    }

    #[test]
    fn what_is_unknown_stands_apart() {
        let half = stratum(100, &[10.0, 10.0], 2);
        assert_eq!(half.total().unwrap().mean, 500.0);
        assert_eq!(half.unknown_population(), 50.0);
        let none = stratum(40, &[], 3);
        assert_eq!((none.total(), none.unknown_population()), (None, 40.0));
        let (known, unknown, like_others) = total(&[half, none]);
        assert_eq!((known.mean, unknown, like_others), (500.0, 90.0, 900.0));
        assert_eq!(total(&[]).0, Interval::default());
    }

    /// Of many samples of one population, nineteen of twenty have the truth between their bounds.
    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut rng = fastrand::Rng::with_seed(7);
        let population: Vec<f64> = (0..2000).map(|_| 100_000.0 * (0.5 + rng.f64() + rng.f64())).collect();
        let truth: f64 = population.iter().sum();
        let holds = (0..1000).filter(|_| {
            let sample: Vec<f64> = rng.choose_multiple(population.iter().copied(), 50);
            let interval = stratum(2000, &sample, 0).total().unwrap();
            (interval.low..=interval.high).contains(&truth)
        });
        let holds = holds.count();
        assert!((920..=975).contains(&holds), "{holds}");
    }
}

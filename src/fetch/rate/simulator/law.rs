//! How a random quantity is distributed.

use fastrand::Rng;

#[derive(Clone, Copy, Debug)]
pub enum Law {
    Constant(f64),
    /// The mean, and the deviation of the logarithm.
    LogNormal(f64, f64),
    /// The mean, and the exponent of the tail (above 1).
    Pareto(f64, f64),
}

impl Law {
    #[must_use]
    pub fn mean(self) -> f64 {
        match self {
            Self::Constant(mean) | Self::LogNormal(mean, _) | Self::Pareto(mean, _) => mean,
        }
    }

    pub(super) fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Constant(value) => value,
            Self::LogNormal(mean, sigma) => mean * (sigma * normal(rng) - sigma * sigma / 2.0).exp(),
            Self::Pareto(mean, shape) => mean * (shape - 1.0) / shape * (1.0 - rng.f64()).powf(-1.0 / shape),
        }
    }
}

/// A standard normal number, by Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_what_they_say() {
        let mut rng = Rng::with_seed(1);
        for law in [Law::Constant(2.0), Law::LogNormal(2.0, 1.0), Law::Pareto(2.0, 2.5)] {
            let mean = (0..100_000).map(|_| law.draw(&mut rng)).sum::<f64>() / 1e5;
            assert!((mean - law.mean()).abs() < 0.1, "{law:?}: {mean}");
        }
    }
}

//! What the user may set about rate control. Keys of FLOW-DC keep its names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which controller, and the options of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateOptions {
    pub rate_control: RateControl,
    pub adaptive: AdaptiveOptions,
    pub paarc: PaarcOptions,
    pub aimd: AimdOptions,
    pub fixed: FixedOptions,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateControl {
    #[default]
    Adaptive,
    Paarc,
    Aimd,
    Fixed,
}

/// Bounds within which [`Adaptive`](super::Adaptive) finds its way; it has nothing else to tune. No keys: for a
/// server the fetcher sets them from its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveOptions {
    /// Requests/s of a server of which nothing is known: distributed-downloader's default rate.
    pub initial_rate: f64,
    /// Most requests/s ever; infinite is no limit.
    pub max_rate: f64,
    /// Most requests under way.
    pub max_in_flight: usize,
}

impl Default for AdaptiveOptions {
    fn default() -> Self {
        Self { initial_rate: 10.0, max_rate: f64::INFINITY, max_in_flight: 1000 }
    }
}

/// FLOW-DC's controller under FLOW-DC's names, with the defaults of its `download_batch` (2026).
///
/// Its notebooks and examples use other ones: `C_init` 8, `C_max` 2000, `mu` 1.0, `beta` 0.7,
/// `probe_rtt_period` 30 s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaarcOptions {
    /// Off, the limit stays at `C_max`.
    pub enable_paarc: bool,
    /// Requests under way: at first, at least, at most.
    #[serde(rename = "C_init")]
    pub c_init: u32,
    #[serde(rename = "C_min")]
    pub c_min: u32,
    #[serde(rename = "C_max")]
    pub c_max: u32,
    /// The operating point, as a fraction of the ceiling.
    pub mu: f64,
    /// What an overload leaves of the ceiling.
    pub beta: f64,
    /// Latency is degraded beyond these multiples of `RTprop`, for the median and the 95th percentile.
    pub theta_50: f64,
    pub theta_95: f64,
    /// The same while starting up, where they end the growth.
    pub startup_theta_50: f64,
    pub startup_theta_95: f64,
    /// Time between two probes for the latency of an unloaded server.
    pub probe_rtt_period: Duration,
    /// How long a latency counts for the minimum.
    pub rtprop_window: Duration,
    /// Least pause of growth after an overload.
    pub cooldown_floor: Duration,
    /// Weight of the newest interval in the averages of latency.
    pub alpha_ema: f64,
    /// Growth per interval while starting up, and later.
    pub startup_additive_increase: u32,
    pub probe_bw_additive_increase: u32,
}

impl Default for PaarcOptions {
    fn default() -> Self {
        Self {
            enable_paarc: true,
            c_init: 4,
            c_min: 2,
            c_max: 10_000,
            mu: 0.85,
            beta: 0.5,
            theta_50: 1.5,
            theta_95: 2.0,
            startup_theta_50: 3.0,
            startup_theta_95: 4.0,
            probe_rtt_period: Duration::from_secs(10),
            rtprop_window: Duration::from_secs(35),
            cooldown_floor: Duration::from_secs(2),
            alpha_ema: 0.3,
            startup_additive_increase: 30,
            probe_bw_additive_increase: 10,
        }
    }
}

/// FLOW-DC's older token bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AimdOptions {
    /// Off, only `concurrent_downloads` holds.
    pub enable_rate_limiting: bool,
    /// Requests/s at first.
    pub rate_limit: f64,
    /// Requests after idle time without a gap. Without effect, as in FLOW-DC; ddl never saves up idle time.
    pub rate_capacity: f64,
    /// Most requests under way. No key: for a server the fetcher sets it to `max_connections_per_server`.
    #[serde(skip)]
    pub concurrent_downloads: usize,
}

impl Default for AimdOptions {
    fn default() -> Self {
        Self {
            enable_rate_limiting: true,
            rate_limit: 100.0,
            rate_capacity: 200.0,
            concurrent_downloads: 1000,
        }
    }
}

/// A rate that somebody has set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FixedOptions {
    /// Requests/s; 0 is no limit.
    pub default_rate_limit: f64,
    /// How far refusals slow a server down: from its rate `r` to `r * (1 - rate_multiplier)`.
    pub rate_multiplier: f64,
    pub max_in_flight: usize,
}

impl Default for FixedOptions {
    fn default() -> Self {
        Self { default_rate_limit: 10.0, rate_multiplier: 1.0, max_in_flight: 256 }
    }
}

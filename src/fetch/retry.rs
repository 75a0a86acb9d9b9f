//! When to try again: backoff, `Retry-After`, and how often.

use std::time::{Duration, Instant, SystemTime};

use hyper::header::HeaderValue;

use super::options::FetchOptions;
use super::outcome::Retry;

/// How often one URL may be answered with a request to wait before its failure is final.
///
/// Such answers cost no attempt, and a server that gives no others is given up. But one that has them for some of
/// its URLs only would keep these for ever. Each time the URL waits longer after the pause, so that others are asked
/// before it: they show that the server is well.
const MAX_THROTTLED: u32 = 20;

/// Enough for another request to be before it.
const LEAST_BEHIND: Duration = Duration::from_millis(100);
/// Twenty of these are ten minutes.
const MOST_BEHIND: Duration = Duration::from_secs(30);

/// Longest backoff, so that the last of many attempts is not hours away.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Pause before the attempt after `attempt` failed ones (from 1): a random time up to `base * 2^(attempt - 1)`,
/// at most 5 min ("full jitter": many URLs that failed together do not come back together).
fn backoff(attempt: u32, base: Duration, rng: &mut fastrand::Rng) -> Duration {
    let doubled = base.saturating_mul(1 << attempt.saturating_sub(1).min(20));
    doubled.min(LONGEST_BACKOFF).mul_f64(rng.f64())
}

/// How much longer than the others of its server a URL waits that was throttled so often: 0.1 s and more, at most 30 s.
fn behind_others(throttled: u32) -> Duration {
    LEAST_BEHIND.saturating_mul(1 << throttled.saturating_sub(1).min(10)).min(MOST_BEHIND)
}

/// The time that a `Retry-After` header asks for (RFC 9110, 10.2.3): seconds, or a date less `now`.
///
/// A past date is zero; what is neither form is `None`. No number of seconds is too large to be read.
pub(super) fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// How often a URL has been tried; says what comes after a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Attempts that failed on the URL's own account.
    pub failed: u32,
    /// Answers that asked to wait; these cost no attempt.
    pub throttled: u32,
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The failure is final.
    GiveUp,
    /// Try again, not before this time.
    At(Instant),
}

impl Attempts {
    /// Counts a failure and decides.
    pub fn after(
        &mut self,
        retry: Retry,
        options: &FetchOptions,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Next {
        match retry {
            Retry::ServerPaused { until } => return Next::At(until.max(now)),
            Retry::Throttled { until } if self.throttled < MAX_THROTTLED => {
                self.throttled += 1;
                return Next::At(until.max(now) + behind_others(self.throttled));
            }
            Retry::Never | Retry::Backoff | Retry::Throttled { .. } => self.failed += 1,
        }
        if retry != Retry::Backoff || self.failed >= options.max_attempts {
            return Next::GiveUp;
        }
        Next::At(now + backoff(self.failed, options.retry_backoff, rng))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn retry_after_has_two_forms() {
        // 1994-11-06T08:49:00Z, 37 s before the date of RFC 9110's examples.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_740);
        let check = |text: &str, expect: Option<u64>| {
            let got = retry_after(&HeaderValue::from_str(text).unwrap(), now);
            assert_eq!(got, expect.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("99999999999999999999999", Some(u64::MAX));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(37));
        check("Sunday, 06-Nov-94 08:49:37 GMT", Some(37));
        check("Sun Nov  6 08:49:37 1994", Some(37));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        for text in ["", "soon", "-1", "1.5", "+5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            check(text, None);
        }
    }

    #[test]
    fn attempts_are_bounded_and_waits_for_the_server_cost_none() {
        let (options, now, mut rng) = (FetchOptions::default(), Instant::now(), fastrand::Rng::with_seed(1));
        let mut attempts = Attempts::default();
        let mut after = |retry| attempts.after(retry, &options, now, &mut rng);
        for _ in 0..1000 {
            assert_eq!(after(Retry::ServerPaused { until: now + S }), Next::At(now + S));
        }
        for throttled in 0..MAX_THROTTLED {
            let behind = (S / 10 * (1 << throttled.min(15))).min(MOST_BEHIND);
            assert_eq!(after(Retry::Throttled { until: now + S }), Next::At(now + S + behind));
        }
        for _ in 1..options.max_attempts {
            assert!(matches!(after(Retry::Backoff), Next::At(_)));
        }
        assert_eq!(after(Retry::Backoff), Next::GiveUp);
        assert_eq!(after(Retry::Throttled { until: now }), Next::GiveUp);
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(Attempts::default().after(Retry::Never, &options, now, &mut rng), Next::GiveUp);
    }

    proptest! {
        #[test]
        fn backoff_is_bounded(attempt: u32, base_ms in 0u64..1_000_000, seed: u64) {
            let pause = backoff(attempt, Duration::from_millis(base_ms), &mut fastrand::Rng::with_seed(seed));
            prop_assert!(pause <= LONGEST_BACKOFF);
            if attempt <= 1 {
                prop_assert!(pause <= Duration::from_millis(base_ms));
            }
        }

        #[test]
        fn retry_after_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = retry_after(&value, SystemTime::now());
            }
        }

        #[test]
        fn retry_after_reads_dates_near_and_far(text in "(Mon|Tue), [0-3][0-9] (Jan|Feb|Foo) [0-9]{4} [0-2][0-9]:[0-9]{2}:[0-9]{2} GMT") {
            let _ = retry_after(&HeaderValue::from_str(&text).unwrap(), SystemTime::now());
        }
    }
}

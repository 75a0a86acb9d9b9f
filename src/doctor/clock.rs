//! How far clocks are apart.

use std::time::{Duration, SystemTime};

use super::{Check, Finding};

/// The ledgers of ranks are compared by their times, and so are limits per second.
const APART: f64 = 1.0;

/// How far another clock is ahead of this one, and what that may be wrong by; in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Offset {
    pub ahead: f64,
    pub error: f64,
}

impl Offset {
    /// The other clock said `there` at some moment between `before` and `after` of this one.
    pub fn between(before: SystemTime, there: SystemTime, after: SystemTime) -> Self {
        let since = |a: SystemTime, b: SystemTime| match a.duration_since(b) {
            Ok(later) => later.as_secs_f64(),
            Err(earlier) => -earlier.duration().as_secs_f64(),
        };
        let error = (since(after, before) / 2.0).max(0.0);
        Self { ahead: since(there, before) - error, error }
    }

    /// What they are apart at least.
    fn at_least(self) -> f64 {
        (self.ahead.abs() - self.error).max(0.0)
    }

    fn told(self) -> String {
        let way = if self.ahead < 0.0 { "behind" } else { "ahead" };
        format!("{:.1} s {way}", self.ahead.abs())
    }

    /// The better of two measurements.
    pub fn better(self, other: Self) -> Self {
        if other.error < self.error { other } else { self }
    }
}

/// Judges the clock of another rank's node.
pub(super) fn of_rank(offset: Offset, lock_timeout: Duration) -> Finding {
    let apart = offset.at_least();
    let advice = "let all nodes set their clocks by the same servers (chrony, ntpd)";
    if apart > lock_timeout.as_secs_f64() / 4.0 {
        let message = format!(
            "{} of rank 0's node: a lock that is alive could pass for a dead one's (`lock_timeout`)",
            offset.told()
        );
        Finding::failure(Check::Clock, message, advice)
    } else if apart > APART {
        let message = format!("{} of rank 0's node: `ddl audit` compares their times", offset.told());
        Finding::warning(Check::Clock, message, advice)
    } else {
        Finding::ok(
            Check::Clock,
            format!("that of rank 0's node, within {:.3} s", offset.ahead.abs() + offset.error),
        )
    }
}

/// Judges the clock by which a filesystem dates files. Nothing to tell is nothing.
pub(super) fn of_filesystem(name: &str, offset: Offset, lock_timeout: Duration) -> Option<Finding> {
    (offset.at_least() > lock_timeout.as_secs_f64() / 4.0).then(|| {
        Finding::failure(
            Check::Clock,
            format!(
                "{name} dates files {} of this node: a lock that is alive could pass for a dead one's (`lock_timeout`)",
                offset.told()
            ),
            "let the file server and the nodes set their clocks by the same servers (chrony, ntpd)",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::Level;
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(1_000_000.0 + seconds)
    }

    #[test]
    fn clocks_are_apart_by_no_more_than_is_proven() {
        let check = |before, there, after, level| {
            let finding =
                of_rank(Offset::between(at(before), at(there), at(after)), Duration::from_secs(120));
            assert_eq!(finding.level, level, "{before} {there} {after}: {finding:?}");
        };
        check(0.0, 0.01, 0.02, Level::Ok);
        check(0.0, 5.0, 0.02, Level::Warning);
        check(0.0, -5.0, 0.02, Level::Warning);
        check(0.0, 60.0, 0.02, Level::Failure);
        check(0.0, -60.0, 0.02, Level::Failure);
        // A slow answer proves less.
        check(0.0, 5.0, 10.0, Level::Ok);
        check(0.0, 6.0, 9.0, Level::Ok);
        check(0.0, 20.0, 10.0, Level::Warning);
        // The clock was set back meanwhile.
        check(5.0, 5.5, 0.0, Level::Ok);
    }

    #[test]
    fn the_quickest_answer_counts() {
        let slow = Offset { ahead: 3.0, error: 2.0 };
        let quick = Offset { ahead: 0.1, error: 0.1 };
        assert_eq!((slow.better(quick), quick.better(slow)), (quick, quick));
    }

    #[test]
    fn a_filesystem_is_told_of_only_where_it_matters() {
        let timeout = Duration::from_secs(120);
        assert_eq!(of_filesystem("x", Offset { ahead: 3.0, error: 0.1 }, timeout), None);
        assert!(of_filesystem("x", Offset { ahead: -300.0, error: 0.1 }, timeout).is_some());
    }
}

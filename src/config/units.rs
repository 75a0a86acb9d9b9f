//! Durations and sizes as people write them: `30s`, `1500ms`, `5m`; `64 MiB`, `100MB`.
//!
//! A number alone is in seconds or bytes. Arithmetic is on integers: what is shown reads back to
//! the same value, for every value.

use std::time::Duration;

/// Units of time in nanoseconds, smallest first.
const TIME_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Units of size in bytes: powers of 1024 with an `i`, of 1000 without. `M` alone is refused,
/// because half of the world's tools mean one and half the other.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Reads a duration; `None` when it is none, is negative, or exceeds 584 years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, TIME_UNITS, "s").map(Duration::from_nanos)
}

/// Reads a number of bytes; `None` when it is none, is negative, or exceeds 64 bits.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    scaled(text, SIZE_UNITS, "B")
}

/// The shortest exact form: in the largest unit that divides the duration.
pub(super) fn show_duration(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_owned();
    }
    // Days are read but not shown: "24h" is what people expect back.
    let (unit, size) = largest_divisor(nanos, &TIME_UNITS[..6]);
    format!("{}{unit}", nanos / size)
}

/// The shortest exact form: in the largest unit that divides the size.
pub(super) fn show_bytes(bytes: u64) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    match largest_divisor(bytes, SIZE_UNITS) {
        ("B", _) => bytes.to_string(),
        (unit, size) => format!("{} {unit}", bytes / size),
    }
}

fn largest_divisor(number: u64, units: &[(&'static str, u64)]) -> (&'static str, u64) {
    units.iter().rev().copied().find(|(_, size)| number.is_multiple_of(*size)).unwrap_or(units[0])
}

/// Reads `12`, `1_500` (as YAML 1.1 and Python write large numbers).
pub(super) fn parse_integer(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('_') {
        return None;
    }
    digits.replace('_', "").parse().ok()
}

/// A decimal number and a unit, as a count of the smallest unit; fractions below it are cut off.
fn scaled(text: &str, units: &[(&str, u64)], default_unit: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..split].trim_end(), &text[split..]);
    let unit = if unit.is_empty() { default_unit } else { unit };
    let (_, size) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;

    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = parse_integer(whole)?.checked_mul(*size)?;
    if !fraction.bytes().all(|c| c.is_ascii_digit()) || number.ends_with('.') {
        return None;
    }
    // 15 digits of a day are finer than a nanosecond, and their product fits 128 bits.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits = fraction.bytes().fold(0_u128, |sum, c| sum * 10 + u128::from(c - b'0'));
    let part = digits * u128::from(*size) / 10_u128.pow(fraction.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(parse_duration(text), expect.map(Duration::from_millis), "{text}");
        };
        check("30s", Some(30_000));
        check("1500ms", Some(1500));
        check("5m", Some(300_000));
        check("1 h", Some(3_600_000));
        check("2d", Some(172_800_000));
        check("90", Some(90_000));
        check("0.25", Some(250));
        check("1.5m", Some(90_000));
        check("0", Some(0));
        for bad in
            ["", "s", "-1s", "1.s", ".5s", "1 fortnight", "1s2", "nan", "inf", "1e3", "99999999999d", "5 m s"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(parse_bytes(text), expect, "{text}");
        check("64 MiB", Some(64 << 20));
        check("100MB", Some(100_000_000));
        check("100mb", Some(100_000_000));
        check("1.5 GiB", Some(3 << 29));
        check("8192", Some(8192));
        check("8_192", Some(8192));
        check("18446744073709551615", Some(u64::MAX));
        for bad in ["", "64M", "64 Mi", "-1", "20000000 TiB", "18446744073709551616", "1__", "_1", "½ GiB"] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nanos: u64, shift in 0_u32..64) {
            let number = nanos >> shift;
            prop_assert_eq!(parse_bytes(&show_bytes(number)), Some(number));
            let duration = Duration::from_nanos(number);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = (parse_duration(&text), parse_bytes(&text), parse_integer(&text));
        }
    }
}

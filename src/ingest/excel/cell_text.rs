//! What a cell's value is as text, given the format that it is shown in.

/// Which of a workbook's cell styles show dates, and from when days are counted.
#[derive(Debug, Default)]
pub(super) struct CellStyles {
    pub(super) are_dates: Vec<bool>,
    pub(super) is_1904: bool,
}

impl CellStyles {
    /// A number as text: a date where the style says so.
    pub(super) fn number(&self, style: usize, value: f64) -> String {
        let is_date = self.are_dates.get(style).copied().unwrap_or(false);
        is_date.then(|| date_text(value, self.is_1904)).flatten().unwrap_or_else(|| number_text(value))
    }
}

/// Whether a built-in number format shows a date or a time of day (ECMA-376, 18.8.30, with those of East Asia).
pub(super) fn is_built_in_date(format_id: u32) -> bool {
    matches!(format_id, 14..=22 | 27..=36 | 45 | 47 | 50..=58)
}

/// Whether a format code shows a date or a time of day: of its first section, what is neither quoted nor escaped nor in
/// brackets has one of the letters of dates. Elapsed time, `[h]:mm`, is a number of days.
pub(super) fn is_date_format(code: &str) -> bool {
    let mut characters = code.chars();
    let mut is_date = false;
    while let Some(character) = characters.next() {
        match character {
            '"' => drop(characters.by_ref().find(|c| *c == '"')),
            '\\' | '_' | '*' => drop(characters.next()),
            '[' => {
                let inside: String = characters.by_ref().take_while(|c| *c != ']').collect();
                let is_elapsed = |letter: char| inside.chars().all(|c| c.eq_ignore_ascii_case(&letter));
                if !inside.is_empty() && ['h', 'm', 's'].into_iter().any(is_elapsed) {
                    return false;
                }
            }
            ';' => break,
            // Of `General`, that is no era.
            'G' | 'g' if characters.as_str().to_ascii_lowercase().starts_with("eneral") => return false,
            'y' | 'Y' | 'm' | 'M' | 'd' | 'D' | 'h' | 'H' | 's' | 'S' => is_date = true,
            _ => {}
        }
    }
    is_date
}

/// Whole numbers without a fraction: an id is no `123.0`.
pub(super) fn number_text(value: f64) -> String {
    if !value.is_finite() {
        return String::new();
    }
    // 0 is also what `-0.0` means.
    if value == 0.0 { "0".to_owned() } else { value.to_string() }
}

const DAY_MS: i64 = 24 * 3600 * 1000;
/// 9999-12-31, the last day that Excel has.
const LAST_DAY: f64 = 2_958_466.0;

/// Days since the end of 1899, or since the start of 1904, as a date or a date and time; `None` for what Excel shows as
/// none.
fn date_text(serial: f64, is_1904: bool) -> Option<String> {
    if !(0.0..LAST_DAY).contains(&serial) {
        return None;
    }
    let total_ms = (serial * DAY_MS as f64).round() as i64;
    let (days, ms) = (total_ms.div_euclid(DAY_MS), total_ms.rem_euclid(DAY_MS));
    // Excel has a 29th of February 1900 as day 60, as Lotus 1-2-3 had: days before it count from one day later.
    let days_to_1970 = match (is_1904, days) {
        (true, _) => 24_107,
        (false, ..60) => 25_568,
        (false, _) => 25_569,
    };
    let (year, month, day) = civil_from_days(days - days_to_1970);
    let date = format!("{year:04}-{month:02}-{day:02}");
    if ms == 0 {
        return Some(date);
    }
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    // Less than a day is a time, of no day.
    let start = if days == 0 { String::new() } else { date + "T" };
    Some(if ms == 0 { start + &time } else { format!("{start}{time}.{ms:03}") })
}

/// Year, month and day of the proleptic Gregorian calendar, for days since 1970-01-01: years are taken to begin in March
/// and days to lie in eras of 400 years, which are all alike.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let since_march = days + 719_468;
    let (era, day_of_era) = (since_march.div_euclid(ERA), since_march.rem_euclid(ERA));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_excel() {
        let check = |serial, is_1904, expect: &str| {
            assert_eq!(date_text(serial, is_1904).as_deref(), Some(expect), "{serial}");
        };
        check(1.0, false, "1900-01-01");
        check(59.0, false, "1900-02-28");
        check(61.0, false, "1900-03-01");
        check(45_413.0, false, "2024-05-01");
        check(45_413.5, false, "2024-05-01T12:00:00");
        check(45_351.25, false, "2024-02-29T06:00:00");
        check(0.75, false, "18:00:00");
        check(45_413.000_011_574_1, false, "2024-05-01T00:00:01");
        check(43_951.0, true, "2024-05-01");
        check(0.0, true, "1904-01-01");
        check(2_958_465.0, false, "9999-12-31");
        for none in [-1.0, 3e6, f64::NAN] {
            assert_eq!(date_text(none, false), None);
        }
    }

    #[test]
    fn formats_of_dates_are_told_from_others() {
        for date in ["yyyy-mm-dd", "d/m/yy", "[$-409]h:mm AM/PM", "mmm\\ d", "[Red]dd.mm.yyyy;@"] {
            assert!(is_date_format(date), "{date}");
        }
        for other in ["General", "0.00", "[h]:mm:ss", "[mm]:ss", "#,##0\" days\"", "0\\d", "\"y\"0;mm", "@"] {
            assert!(!is_date_format(other), "{other}");
        }
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let check = |value, expect: &str| assert_eq!(number_text(value), expect);
        check(123.0, "123");
        check(9_007_199_254_740_991.0, "9007199254740991");
        check(0.1, "0.1");
        check(-0.0, "0");
        check(-2.5, "-2.5");
        check(f64::INFINITY, "");
    }
}

//! Dates of log lines.

/// `2026-03-01 12:00:00` in UTC, from seconds since 1970.
///
/// Days to a date by counting 400-year cycles of 146,097 days from 1 March of year 0, the usual way.
pub(in crate::cli) fn date_time(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let since_march_0 = days + 719_468;
    let (cycle, day_of_cycle) = (since_march_0 / 146_097, since_march_0 % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3600, time % 3600 / 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::date_time;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date_time(0), "1970-01-01 00:00:00");
        assert_eq!(date_time(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(date_time(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date_time(1_772_366_400), "2026-03-01 12:00:00");
    }
}

//! Times as numbers. No clock here: times are given by whoever has one.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX time).
pub type Millis = i64;

/// One hour in milliseconds.
pub const HOUR_MS: Millis = 3_600_000;

/// One day in milliseconds.
pub const DAY_MS: Millis = 24 * HOUR_MS;

/// The longest time for which ids are remembered and the greatest age of an event: 7 days.
pub const MAX_AGE_MS: Millis = 7 * DAY_MS;

/// An event that arrives more than this after it happened is *late*.
pub const LATE_MS: Millis = 60_000;

/// When something happened that was so old when it was received.
#[inline]
pub fn event_at(received_at: Millis, age_ms: u32) -> Millis {
    received_at.saturating_sub(Millis::from(age_ms))
}

/// Whether that is late.
#[inline]
pub fn is_late(age_ms: u32) -> bool {
    Millis::from(age_ms) > LATE_MS
}

/// An hour of UTC, as hours since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hour(pub i64);

impl Hour {
    /// The hour that a time falls in.
    pub fn of(time: Millis) -> Self {
        Self(time.div_euclid(HOUR_MS))
    }

    /// Its first millisecond.
    pub fn start(self) -> Millis {
        self.0.saturating_mul(HOUR_MS)
    }

    /// The first millisecond after it.
    pub fn end(self) -> Millis {
        self.start().saturating_add(HOUR_MS)
    }

    /// `YYYY-MM-DD` of its day.
    pub fn date(self) -> String {
        let (year, month, day) = civil(self.0.div_euclid(24));
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// The hour of the day, 0 to 23.
    pub fn of_day(self) -> i64 {
        self.0.rem_euclid(24)
    }

    /// Reads what [`fmt::Display`] writes: `2026-11-22T13:00:00Z`.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_suffix(":00:00Z")?;
        let (date, hour) = rest.split_once('T')?;
        Self::from_date_and_hour(date, hour)
    }

    /// The hour of `YYYY-MM-DD` and `HH`.
    pub fn from_date_and_hour(date: &str, hour: &str) -> Option<Self> {
        let mut parts = date.splitn(3, '-');
        let (year, month, day) =
            (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let hour: i64 = hour.parse().ok().filter(|hour| (0..24).contains(hour))?;
        let days = days_from_civil(year, month, day);
        (civil(days) == (year, month, day)).then_some(Self(days * 24 + hour))
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{:02}:00:00Z", self.date(), self.of_day())
    }
}

/// RFC 3339 with milliseconds: `2026-11-22T13:05:09.042Z`.
pub fn rfc3339(time: Millis) -> String {
    let hour = Hour::of(time);
    let rest = time.rem_euclid(HOUR_MS);
    let (minute, second, milli) = (rest / 60_000, rest / 1000 % 60, rest % 1000);
    format!("{}T{:02}:{minute:02}:{second:02}.{milli:03}Z", hour.date(), hour.of_day())
}

/// Days since 1970 to year, month, day of the proleptic Gregorian calendar
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The way back from [`civil`], from the same source.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_hours_have_known_names() {
        assert_eq!(Hour(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Hour::of(-1).to_string(), "1969-12-31T23:00:00Z");
        assert_eq!(Hour::of(1_772_323_200_000).to_string(), "2026-03-01T00:00:00Z");
        assert_eq!(Hour::of(1_709_164_800_000).date(), "2024-02-29");
        assert_eq!(rfc3339(1_709_164_800_042), "2024-02-29T00:00:00.042Z");
    }

    #[test]
    fn what_is_no_hour_is_refused() {
        for text in ["", "2026-02-30T01:00:00Z", "2026-02-03T24:00:00Z", "2026-02-03T01:30:00Z", "2026-02-03"] {
            assert_eq!(Hour::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_hour_reads_back(hour in -1_000_000_i64..10_000_000) {
            prop_assume!(Hour(hour).start() >= -62_135_596_800_000); // year 1: four digits
            prop_assert_eq!(Hour::parse(&Hour(hour).to_string()), Some(Hour(hour)));
        }
    }
}

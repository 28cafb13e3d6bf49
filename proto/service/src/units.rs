//! Sizes and times as people write them in settings: `256MiB`, `250ms`.
//!
//! The rule kept here: a setting is a whole number with its unit, what is printed can be read back, and a
//! value that cannot be kept exactly is refused rather than rounded. A time without a unit is refused; a
//! size without one is bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// Factors of a size, by unit. The first of each value is the one that [`ByteSize`] prints.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Factors of a time in milliseconds, by unit.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A number of bytes. Reads `256MiB`, `64KB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let factor = match unit {
            "" => Some(1),
            _ => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor),
        };
        let Some(factor) = factor.filter(|_| !number.is_empty()) else {
            return Err(UnitError::Size { text: text.into() });
        };
        multiply(text, number, factor).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES[..4].iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A length of time, in whole milliseconds. Reads `250ms`, `10s`, `5m`, `72h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

impl Period {
    /// A period of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// In milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.duration()
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let factor = TIMES.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let Some(factor) = factor.filter(|_| !number.is_empty()) else {
            return Err(UnitError::Time { text: text.into() });
        };
        multiply(text, number, factor).map(Self)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TIMES.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}s", self.0),
        }
    }
}

/// Why a size or a time could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{text:?} is not a size: write a whole number and B, KiB, MiB, GiB, TiB, KB, MB, GB or TB")]
    Size {
        /// What was given.
        text: Box<str>,
    },
    /// Not a time.
    #[error("{text:?} is not a time: write a whole number and ms, s, m, h or d")]
    Time {
        /// What was given.
        text: Box<str>,
    },
    /// More than 64 bits hold.
    #[error("{text:?} is too large")]
    TooLarge {
        /// What was given.
        text: Box<str>,
    },
}

/// The leading digits, and what follows them without blanks.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Digits times a factor. `number` is one digit or more, so that only its size can be wrong.
fn multiply(text: &str, number: &str, factor: u64) -> Result<u64, UnitError> {
    let value = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    value.ok_or_else(|| UnitError::TooLarge { text: text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> u64 {
        text.parse::<ByteSize>().unwrap().bytes()
    }

    fn millis(text: &str) -> u64 {
        text.parse::<Period>().unwrap().millis()
    }

    #[test]
    fn sizes_are_read_in_binary_decimal_and_plain_units() {
        assert_eq!(size("256MiB"), 256 << 20);
        assert_eq!(size("64KiB"), 64 << 10);
        assert_eq!(size("64KB"), 64_000);
        assert_eq!(size("2 gib"), 2 << 30);
        assert_eq!(size("4096"), 4096);
        assert_eq!(size("1B"), 1);
        assert_eq!(size("18446744073709551615"), u64::MAX);
    }

    #[test]
    fn times_are_read_in_every_unit() {
        assert_eq!(millis("250ms"), 250);
        assert_eq!(millis("1s"), 1_000);
        assert_eq!(millis("10m"), 600_000);
        assert_eq!(millis("72h"), 72 * 3_600_000);
        assert_eq!(millis("7d"), 7 * 86_400_000);
        assert_eq!(millis("0s"), 0);
    }

    #[test]
    fn what_is_printed_reads_back() {
        for bytes in [0, 1, 999, 1000, 1024, 4097, 256 << 20, 3 << 40, u64::MAX] {
            assert_eq!(size(&ByteSize(bytes).to_string()), bytes);
        }
        for time in [0, 1, 999, 1000, 60_000, 61_000, 72 * 3_600_000, 7 * 86_400_000, u64::MAX] {
            assert_eq!(millis(&Period::from_millis(time).to_string()), time);
        }
        assert_eq!(ByteSize(256 << 20).to_string(), "256MiB");
        assert_eq!(Period::from_millis(1_500).to_string(), "1500ms");
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_the_units_that_are() {
        for text in ["", "MiB", "12 parsecs", "-1", "1.5GiB", "0x10", "1MiBs", "1 2", "１MiB"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.to_string().contains("MiB, GiB"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_time_without_a_unit_is_refused() {
        for text in ["", "10", "s", "-1s", "1.5h", "10 minutes", "1h30m", "1S", "1M"] {
            let error = text.parse::<Period>().unwrap_err();
            assert!(error.to_string().contains("ms, s, m, h or d"), "{text:?}: {error}");
        }
    }

    #[test]
    fn values_over_64_bits_are_refused_and_not_wrapped() {
        for text in ["18446744073709551616", "18446744073709551615KiB", "99999999999999999999999"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(error, UnitError::TooLarge { text: text.into() });
        }
        assert!("99999999999999999d".parse::<Period>().is_err());
    }
}

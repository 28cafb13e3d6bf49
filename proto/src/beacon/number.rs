//! Decimal numbers read from their text, so that no binary fraction ever stands in between.
//!
//! `[+-] digits [. digits] [e [+-] digits]` with at least one digit before the exponent, white space around it
//! ignored. The work is linear in the text, however large the exponent.

use crate::event::Micros;
use crate::time::MAX_AGE_MS;

use super::fault::Detail;

/// Reads a `value`: at most 9 × 10⁹ in magnitude, decimals beyond the sixth rounded half away from zero.
pub(super) fn value(text: &str) -> Result<Micros, Detail> {
    let number = Decimal::parse(text).ok_or(Detail::Number { key: "value" })?;
    let micros = number.scaled(6, Rounding::HalfUp).and_then(|magnitude| i64::try_from(magnitude).ok());
    let micros = micros.filter(|magnitude| *magnitude <= Micros::MAX.0).ok_or(Detail::Range)?;
    Ok(Micros(if number.negative { -micros } else { micros }))
}

/// Reads an `age` in milliseconds: cut to whole ones, and to 0 … 7 days.
pub(super) fn age(text: &str) -> Result<u32, Detail> {
    let number = Decimal::parse(text).ok_or(Detail::Number { key: "age" })?;
    if number.negative {
        return Ok(0);
    }
    let age = number.scaled(0, Rounding::Down).and_then(|age| u32::try_from(age).ok());
    Ok(age.unwrap_or(u32::MAX).min(MAX_AGE))
}

/// Whether a `value` has decimals that are not kept.
pub(super) fn is_rounded(text: &str) -> bool {
    Decimal::parse(text).is_some_and(|number| number.scaled(6, Rounding::Down) != number.scaled(6, Rounding::Up))
}

/// Whether an `age` is beyond its limits.
pub(super) fn is_age_cut(text: &str) -> bool {
    Decimal::parse(text).is_some_and(|number| {
        let age = number.scaled(0, Rounding::Up);
        number.negative && age != Some(0) || age.is_none_or(|age| age > u64::from(MAX_AGE))
    })
}

/// Reads a `lost`.
pub(super) fn lost(text: &str) -> Result<u32, Detail> {
    text.trim_ascii().parse().map_err(|_| Detail::Lost)
}

/// 7 days, in the type of an age.
const MAX_AGE: u32 = 604_800_000;
const _: () = assert!(MAX_AGE as i64 == MAX_AGE_MS);

/// A number with this many digits or more is greater than anything that is kept.
const TOO_MANY_DIGITS: i64 = 19;

/// Far beyond every exponent that matters, and far from overflow.
const FAR: i64 = 1 << 40;

#[derive(Clone, Copy)]
enum Rounding {
    /// Towards zero.
    Down,
    /// To the nearest, halves away from zero.
    HalfUp,
    /// Away from zero.
    Up,
}

/// `± mantissa × 10^exponent`, where the point of the mantissa is already part of the exponent.
struct Decimal<'a> {
    negative: bool,
    /// Digits before and behind the point of the mantissa, leading zeros included.
    whole: &'a [u8],
    decimals: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = sign(text.trim_ascii().as_bytes());
        let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&rest[..at], exponent(&rest[at + 1..])?),
            None => (rest, 0),
        };
        let point = mantissa.iter().position(|byte| *byte == b'.');
        let (whole, decimals) = point.map_or((mantissa, &[][..]), |at| (&mantissa[..at], &mantissa[at + 1..]));
        let is_number = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if whole.len() + decimals.len() == 0 || !is_number(whole) || !is_number(decimals) {
            return None;
        }
        Some(Self { negative, whole, decimals, exponent: exponent - i64::try_from(decimals.len()).ok()? })
    }

    /// The magnitude times 10^`places` as a whole number; `None` if it has too many digits to be of use.
    fn scaled(&self, places: i64, rounding: Rounding) -> Option<u64> {
        let zeros = |digits: &[u8]| digits.iter().take_while(|digit| **digit == b'0').count();
        let whole = &self.whole[zeros(self.whole)..];
        let decimals = &self.decimals[if whole.is_empty() { zeros(self.decimals) } else { 0 }..];
        let mut digits = whole.iter().chain(decimals);
        let count = i64::try_from(whole.len() + decimals.len()).ok()?;
        let wanted = count + self.exponent + places;
        if count == 0 {
            return Some(0);
        }
        if wanted < 0 {
            return Some(u64::from(matches!(rounding, Rounding::Up)));
        }
        if wanted >= TOO_MANY_DIGITS {
            return None;
        }
        let mut number = 0;
        for _ in 0..wanted {
            number = number * 10 + digits.next().map_or(0, |digit| u64::from(digit - b'0'));
        }
        let up = match rounding {
            Rounding::Down => false,
            Rounding::HalfUp => digits.next().is_some_and(|digit| *digit >= b'5'),
            Rounding::Up => digits.any(|digit| *digit != b'0'),
        };
        Some(number + u64::from(up))
    }
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = sign(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits.iter().fold(0, |sum: i64, digit| (sum * 10 + i64::from(digit - b'0')).min(FAR));
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_is_kept_to_six_decimals_and_rounded_half_away_from_zero() {
        for (text, micros) in [
            ("0", 0),
            ("-0", 0),
            ("12.50", 12_500_000),
            ("+3", 3_000_000),
            (" .5", 500_000),
            ("5.", 5_000_000),
            ("0.1", 100_000),
            ("0.0000004", 0),
            ("0.0000005", 1),
            ("-0.0000005", -1),
            ("0.00000049999999", 0),
            ("0.00000005", 0),
            ("1.9999995", 2_000_000),
            ("1e3", 1_000_000_000),
            ("1E-6", 1),
            ("25e-7", 3),
            ("123456.789e-3", 123_456_789),
            ("0.000000000000000000000000000001e30", 1_000_000),
            ("9000000000", 9_000_000_000_000_000),
            ("-9e9", -9_000_000_000_000_000),
            ("8999999999.999999", 8_999_999_999_999_999),
            ("0e999999999999999999999999", 0),
            ("1e-999999999999999999999999", 0),
        ] {
            assert_eq!(value(text).expect(text), Micros(micros), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_told_from_what_is_too_great() {
        for text in
            ["", "-", ".", "e5", "1e", "1e+", "1.2.3", "1,5", "0x10", "NaN", "Infinity", "1 2", "--1", "١", "1e1.5"]
        {
            assert!(matches!(value(text), Err(Detail::Number { key: "value" })), "{text}");
            assert!(matches!(age(text), Err(Detail::Number { key: "age" })), "{text}");
        }
        for text in ["9000000000.000001", "-9000000001", "1e10", "1e999999999999999999999", &"9".repeat(100_000)] {
            assert!(matches!(value(text), Err(Detail::Range)), "{text}");
        }
    }

    #[test]
    fn an_age_is_cut_to_whole_milliseconds_within_seven_days() {
        for (text, expected) in [
            ("0", 0),
            ("1500.9999999", 1500),
            ("-20", 0),
            ("-1e99", 0),
            ("1e3", 1000),
            ("604800000", MAX_AGE),
            ("604800001", MAX_AGE),
            ("1e400", MAX_AGE),
            ("99999999999", MAX_AGE),
        ] {
            assert_eq!(age(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn lost_is_a_whole_number_of_32_bits() {
        assert_eq!(lost("4294967295").expect("the greatest"), u32::MAX);
        for text in ["4294967296", "-1", "1.5", "many", "true"] {
            assert!(matches!(lost(text), Err(Detail::Lost)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_value_reads_back_exactly(micros in -Micros::MAX.0..=Micros::MAX.0) {
            prop_assert_eq!(value(&Micros(micros).to_string()).expect("our own text"), Micros(micros));
        }

        #[test]
        fn point_and_exponent_are_one_number(micros in 0..=Micros::MAX.0, shift in 0_u32..30) {
            let zeros = "0".repeat(usize::try_from(shift).expect("small"));
            prop_assert_eq!(value(&format!("{micros}{zeros}e-{}", shift + 6)).expect("a number"), Micros(micros));
            let point = format!("0.{zeros}{micros:016}e{}", shift + 10);
            prop_assert_eq!(value(&point).expect("a number"), Micros(micros));
        }

        #[test]
        fn rounding_agrees_with_exact_arithmetic(whole in -9_000_000_000_000_i64..9_000_000_000_000) {
            // nine decimals: the last three are rounded away
            let (sign, giga) = (if whole < 0 { "-" } else { "" }, 1_000_000_000);
            let text = format!("{sign}{}.{:09}", whole.abs() / giga, whole.abs() % giga);
            prop_assert_eq!(value(&text).expect("a number").0, (whole.abs() + 500) / 1000 * whole.signum());
        }

        #[test]
        fn no_text_is_beyond_the_parser(text in "[-+.0-9eE ]{0,40}") {
            let is_rust_number = !text.trim_ascii().is_empty() && text.trim_ascii().parse::<f64>().is_ok();
            prop_assert_eq!(!matches!(value(&text), Err(Detail::Number { .. })), is_rust_number);
        }
    }
}

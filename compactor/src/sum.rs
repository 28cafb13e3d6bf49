//! Sums of values: exact inside, a double in the file.
//!
//! The rule: a sum is rounded once, from all its millionths, to the nearest double. What the double cannot give
//! back is written out in the file's footer, so that an amendment goes on from the exact sum.

/// The double nearest to so many millionths.
#[expect(clippy::cast_precision_loss, reason = "below 2^53 both numbers are exact, and one division rounds once")]
pub fn to_f64(micros: i128) -> f64 {
    const EXACT: u128 = 1 << 53;
    if micros.unsigned_abs() <= EXACT {
        return micros as f64 / 1e6;
    }
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, part) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    format!("{sign}{whole}.{part:06}").parse().expect("a decimal number")
}

/// The millionths that a double most likely came from. Only an answer for which [`to_f64`] was checked: see
/// [`is_given_back`].
#[expect(clippy::cast_possible_truncation, reason = "saturates")]
pub fn from_f64(sum: f64) -> i128 {
    (sum * 1e6).round() as i128
}

/// Whether the double alone tells so many millionths.
pub fn is_given_back(micros: i128) -> bool {
    from_f64(to_f64(micros)) == micros
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_is_the_double_nearest_to_its_decimal(micros in any::<i64>(), times in 1..1_000_000_i128) {
            let micros = i128::from(micros) * times;
            let (whole, part) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
            let text = format!("{}{whole}.{part:06}", if micros < 0 { "-" } else { "" });
            prop_assert_eq!(to_f64(micros), text.parse::<f64>().unwrap());
        }

        #[test]
        fn everyday_sums_are_given_back(micros in -1_000_000_000_000_000_i128..1_000_000_000_000_000) {
            prop_assert!(is_given_back(micros));
        }
    }

    #[test]
    fn what_a_double_cannot_hold_is_known() {
        assert!(!is_given_back((1 << 60) + 1));
        assert_eq!(to_f64(100_000), 0.1);
    }
}

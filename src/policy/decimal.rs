//! Numbers as JSON writes them, taken apart digit by digit: a float would already have lost what a
//! rounding direction promises.

/// The digits of a number of at least zero, without leading zeros (none at all for zero), and the power of
/// ten that the last one stands for. `None` for any other text.
#[must_use]
pub(crate) fn digits(text: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let power = i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    Some((digits.trim_start_matches('0').to_owned(), power))
}

/// `amount / 10^places` as a plain decimal number without needless zeros.
#[must_use]
pub(crate) fn scaled(amount: i128, places: usize) -> String {
    let digits = format!("{:0>width$}", amount.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    let sign = if amount < 0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::{digits, scaled};

    #[rstest::rstest]
    #[case(0, 12, "0")]
    #[case(250_000, 12, "0.00000025")]
    #[case(-1_500, 3, "-1.5")]
    #[case(2_000, 3, "2")]
    #[case(7, 0, "7")]
    fn an_amount_is_written_without_needless_zeros(
        #[case] amount: i128,
        #[case] places: usize,
        #[case] text: &str,
    ) {
        assert_eq!(scaled(amount, places), text);
    }

    #[rstest::rstest]
    #[case("0.00042", Some(("42", -5)))]
    #[case("1.20e-05", Some(("120", -7)))]
    #[case("12E+1", Some(("12", 1)))]
    #[case("0.0e5", Some(("", 4)))]
    #[case("1.5e-2147483648", Some(("15", -2_147_483_649)))]
    #[case("1e99999999999", None)]
    #[case("-1", None)]
    #[case(".5", None)]
    #[case("1.2.3", None)]
    #[case("", None)]
    fn a_number_is_its_digits_and_a_power_of_ten(#[case] text: &str, #[case] expected: Option<(&str, i64)>) {
        assert_eq!(digits(text), expected.map(|(digits, power)| (digits.to_owned(), power)));
    }
}

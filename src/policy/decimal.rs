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

#[cfg(test)]
mod tests {
    use super::digits;

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

//! Decimal text, as JSON writes numbers, to whole nano-dollars.

use crate::policy::decimal::digits;
use crate::types::NanoUsd;

/// Reads dollars such as `0.00042` or `1.2e-05`, exactly, and rounds up to a whole nano-dollar.
///
/// `None` for what is no number of at least zero or does not fit the ledger.
pub(crate) fn nano_usd_up(text: &str) -> Option<NanoUsd> {
    let (significant, power) = digits(text.trim())?;
    // Trailing zeros carry no value, only scale; without them any real amount is short.
    let kept = significant.trim_end_matches('0');
    if kept.is_empty() {
        return Some(NanoUsd::ZERO);
    }
    let scale = 9 + power + i64::try_from(significant.len() - kept.len()).ok()?;
    let nano = if scale >= 0 {
        let factor = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
        kept.parse::<i128>().ok()?.checked_mul(factor)?
    } else {
        let dropped = usize::try_from(scale.unsigned_abs()).ok()?;
        // `kept` ends in a digit above zero, so dropping any of it means rounding up.
        let rest = kept.len().checked_sub(dropped).map_or("", |cut| &kept[..cut]);
        let floor = if rest.is_empty() { 0 } else { rest.parse::<i128>().ok()? };
        floor.checked_add(1)?
    };
    i64::try_from(nano).ok().map(NanoUsd)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case("0.0e5", Some(0))]
    #[case("0.00042", Some(420_000))]
    #[case("1.2e-05", Some(12_000))]
    #[case("1E-9", Some(1))]
    #[case("1e-10", Some(1))]
    #[case("1.0000000001", Some(1_000_000_001))]
    #[case("0.000000000999", Some(1))]
    #[case("12e+1", Some(120_000_000_000))]
    #[case("1500", Some(1_500_000_000_000))]
    #[case("0.123456789012345678901234567890123456789", Some(123_456_790))]
    #[case("1e-2000000000", Some(1))]
    #[case("1e2000000000", None)]
    #[case("9223372036.854775807", Some(i64::MAX))]
    #[case("9223372036.854775808", None)]
    #[case("-0.1", None)]
    #[case("", None)]
    #[case(".5", None)]
    #[case("e5", None)]
    #[case("1e", None)]
    #[case("NaN", None)]
    #[case("0x10", None)]
    fn dollars_round_up(#[case] text: &str, #[case] nano: Option<i64>) {
        assert_eq!(nano_usd_up(text), nano.map(NanoUsd), "{text}");
    }

    proptest! {
        #[test]
        fn what_fits_is_exact_however_it_is_written(nano in 0..=i64::MAX) {
            prop_assert_eq!(nano_usd_up(&NanoUsd(nano).to_string()), Some(NanoUsd(nano)));
            prop_assert_eq!(nano_usd_up(&format!("{nano}e-9")), Some(NanoUsd(nano)));
            prop_assert_eq!(nano_usd_up(&format!("{nano}.000e-9")), Some(NanoUsd(nano)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9.eE+-]{0,60}") {
            if let Some(amount) = nano_usd_up(&text) {
                prop_assert!(amount >= NanoUsd::ZERO);
            }
        }
    }
}

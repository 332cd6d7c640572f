//! Money as whole numbers: nano-dollars in the ledger, pico-dollars per token in price lists.
//!
//! A price of $0.0375 per million tokens is 37,500 pico-dollars a token and 37.5 nano-dollars, so
//! prices need the finer unit. No float comes near either; text is parsed digit by digit.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount in nano-dollars (1e-9 USD). Its text form is a decimal number of dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub i64);

/// A price in pico-dollars (1e-12 USD) per token, which is micro-dollars per million tokens.
///
/// Its text form is a decimal number of dollars per *million* tokens, as price pages print it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsdPerToken(pub i64);

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a plain decimal number.
    #[error("`{0}` is not a decimal amount such as \"12.50\"")]
    NotDecimal(String),
    /// More digits after the point than the unit has.
    #[error("`{text}` has more than {places} decimal places")]
    TooFine {
        /// The text as it came.
        text: String,
        /// How many places the unit holds.
        places: usize,
    },
    /// Larger than the ledger can hold.
    #[error("`{0}` is out of range")]
    OutOfRange(String),
    /// Below zero where only an amount of at least zero makes sense.
    #[error("`{0}` is negative")]
    Negative(String),
}

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount the ledger holds, about 9.2 billion dollars.
    pub const MAX: Self = Self(i64::MAX);
    const PLACES: usize = 9;

    /// Adds without wrapping: the largest amount stands in for anything above it.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts, with zero standing in for anything below it.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }

    /// An amount of at least zero from dollars as text, such as `"12.50"`.
    ///
    /// # Errors
    /// When the text is no decimal number, is negative, or does not fit.
    pub fn parse_cap(text: &str) -> Result<Self, MoneyError> {
        let amount: Self = text.parse()?;
        if amount.0 < 0 { Err(MoneyError::Negative(text.to_owned())) } else { Ok(amount) }
    }
}

impl PicoUsdPerToken {
    /// A free token.
    pub const ZERO: Self = Self(0);
    const PLACES: usize = 6;
}

/// Reads `text` as a decimal number scaled by `10^places`, exactly.
fn parse_scaled(text: &str, places: usize) -> Result<i64, MoneyError> {
    let not_decimal = || MoneyError::NotDecimal(text.to_owned());
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
        return Err(not_decimal());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > places {
        return Err(MoneyError::TooFine { text: text.to_owned(), places });
    }
    let scaled = format!("{whole}{fraction:0<places$}");
    let magnitude: i64 = scaled.parse().map_err(|_| MoneyError::OutOfRange(text.to_owned()))?;
    Ok(if negative { -magnitude } else { magnitude })
}

/// Prints `amount / 10^places` without trailing zeros: `0`, `12.5`, `-0.000001`.
fn write_scaled(f: &mut fmt::Formatter<'_>, amount: i64, places: usize) -> fmt::Result {
    let digits = format!("{:0>width$}", amount.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    let sign = if amount < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    f.pad(&format!("{sign}{whole}{point}{fraction}"))
}

impl FromStr for NanoUsd {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse_scaled(text, Self::PLACES).map(Self)
    }
}

impl FromStr for PicoUsdPerToken {
    type Err = MoneyError;
    /// Dollars per million tokens; a price is never negative.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let price = parse_scaled(text, Self::PLACES)?;
        if price < 0 { Err(MoneyError::Negative(text.to_owned())) } else { Ok(Self(price)) }
    }
}

impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, Self::PLACES)
    }
}

impl fmt::Display for PicoUsdPerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, Self::PLACES)
    }
}

macro_rules! money_as_text {
    ($unit:ty) => {
        impl Serialize for $unit {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}
money_as_text!(NanoUsd);
money_as_text!(PicoUsdPerToken);

impl Add for NanoUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
impl Sub for NanoUsd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}
impl Neg for NanoUsd {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}
impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}
impl SubAssign for NanoUsd {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}
impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", 0)]
    #[case("12.50", 12_500_000_000)]
    #[case("0.000000001", 1)]
    #[case("-0.5", -500_000_000)]
    #[case("1.0000000000000", 1_000_000_000)]
    #[case("9223372036.854775807", i64::MAX)]
    fn dollars_are_read_exactly(#[case] text: &str, #[case] nano: i64) {
        assert_eq!(text.parse(), Ok(NanoUsd(nano)));
    }

    #[rstest]
    #[case("")]
    #[case("1.")]
    #[case(".5")]
    #[case("1e3")]
    #[case("$1")]
    #[case("--1")]
    #[case("0.0000000001")]
    #[case("9223372036.854775808")]
    #[case("99999999999999999999")]
    fn what_is_no_amount_is_refused(#[case] text: &str) {
        assert!(text.parse::<NanoUsd>().is_err(), "{text}");
    }

    #[test]
    fn a_price_keeps_a_tenth_of_a_cent_per_million_and_refuses_a_negative() {
        assert_eq!("0.0375".parse(), Ok(PicoUsdPerToken(37_500)));
        assert_eq!("-1".parse::<PicoUsdPerToken>(), Err(MoneyError::Negative("-1".into())));
        assert_eq!(NanoUsd::parse_cap("-1"), Err(MoneyError::Negative("-1".into())));
    }

    proptest! {
        #[test]
        fn text_round_trips(nano in -i64::MAX..=i64::MAX) {
            prop_assert_eq!(NanoUsd(nano).to_string().parse(), Ok(NanoUsd(nano)));
        }
    }
}

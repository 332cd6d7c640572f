//! From the table's text to its prices: what is about money, by the name of its field.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Entry, Price, Rounded, Table};
use crate::policy::decimal;
use crate::types::PicoUsdPerToken;

/// The entry that documents the format.
const SAMPLE: &str = "sample_spec";
/// Decimal places of a dollar that are kept of a price per token.
const PLACES: i64 = 12;
/// Digits of other amounts; what has more is kept as it is written.
const DIGITS_MAX: usize = 40;

type Fields<'a> = BTreeMap<String, &'a RawValue>;

pub(super) fn table(text: &str) -> Result<Table, String> {
    let listed: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| format!("is no price table: {error}"))?;
    let mut table = Table::default();
    for (model, raw) in listed.into_iter().filter(|(model, _)| model != SAMPLE) {
        let fields = serde_json::from_str::<Fields<'_>>(raw.get())
            .map_err(|error| format!("is no price table: {model}: {error}"))?;
        let mut entry = Entry {
            vendor: fields.get("litellm_provider").and_then(|raw| serde_json::from_str(raw.get()).ok()),
            prices: BTreeMap::new(),
        };
        for (field, raw) in fields.into_iter().filter(|(field, _)| is_about_money(field)) {
            add(&model, &mut entry, &mut table.rounded, field, raw);
        }
        table.models.insert(model, entry);
    }
    Ok(table)
}

/// One field, or each of those within it.
fn add(model: &str, entry: &mut Entry, rounded: &mut Vec<Rounded>, field: String, raw: &RawValue) {
    let text = raw.get();
    if text == "null" {
        return;
    }
    if let Ok(inner) = serde_json::from_str::<Fields<'_>>(text) {
        for (name, raw) in inner {
            add(model, entry, rounded, format!("{field}.{name}"), raw);
        }
        return;
    }
    // Prices by length; a list of anything else is what a price depends on, such as hours.
    if let Ok(inner) = serde_json::from_str::<Vec<Fields<'_>>>(text)
        && inner.iter().any(|fields| fields.keys().any(|name| is_about_money(name)))
    {
        for (at, fields) in inner.into_iter().enumerate() {
            for (name, raw) in fields {
                add(model, entry, rounded, format!("{field}[{at}].{name}"), raw);
            }
        }
        return;
    }
    let price = if is_per_token(&field) {
        match pico_nearest(text) {
            Some(price) => {
                if has_more_places(text) {
                    rounded.push(Rounded {
                        model: model.to_owned(),
                        field: field.clone(),
                        listed: text.to_owned(),
                        usd_per_token: usd_per_token(price),
                    });
                }
                Price::token(price)
            }
            None => Price::Unreadable { unreadable: unquoted(text).to_owned() },
        }
    } else {
        Price::Other(plain(unquoted(text)).unwrap_or_else(|| compact(text)))
    };
    entry.prices.insert(field, price);
}

/// Fields that say what something costs.
fn is_about_money(field: &str) -> bool {
    field.contains("cost") || field.contains("pricing")
}

/// Whether a field's price is that of a token, by its name: `input_cost_per_token_flex`,
/// `cache_read_input_token_cost`, `output_cost_per_reasoning_token`; not `input_cost_per_character_above_128k_tokens`.
#[must_use]
pub fn is_per_token(field: &str) -> bool {
    let last = field.rsplit('.').next().unwrap_or(field);
    let words: Vec<&str> = last.split('_').collect();
    // Units of a vendor's own are no dollars.
    if words.contains(&"dbu") {
        return false;
    }
    words.windows(2).any(|pair| pair == ["token", "cost"])
        || words.windows(3).any(|three| three == ["cost", "per", "token"])
        || words.windows(4).any(|four| four[..2] == ["cost", "per"] && four[3] == "token")
}

/// Dollars per token as JSON writes a number, in whole pico-dollars: to the nearest one, halves upwards,
/// and upwards where it would otherwise be 0. `None` for what is no number of at least zero.
#[must_use]
pub fn pico_nearest(text: &str) -> Option<PicoUsdPerToken> {
    let (digits, power) = decimal::digits(unquoted(text))?;
    if digits.is_empty() {
        return Some(PicoUsdPerToken::ZERO);
    }
    let scale = PLACES + power;
    let pico = if scale >= 0 {
        let factor = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
        digits.parse::<i128>().ok()?.checked_mul(factor)?
    } else {
        let dropped = usize::try_from(scale.unsigned_abs()).ok()?;
        let (kept, rest) = match digits.len().checked_sub(dropped) {
            Some(cut) => digits.split_at(cut),
            // Smaller than a tenth of the unit.
            None => ("", "0"),
        };
        let kept: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
        (kept + i128::from(rest.as_bytes()[0] >= b'5')).max(1)
    };
    i64::try_from(pico).ok().map(PicoUsdPerToken)
}

/// A price per token as the decimal number of dollars that it is, exactly.
#[must_use]
pub fn usd_per_token(price: PicoUsdPerToken) -> String {
    decimal::scaled(i128::from(price.0), 12)
}

/// Whether a number says more than whole pico-dollars can hold.
fn has_more_places(text: &str) -> bool {
    decimal::digits(unquoted(text)).is_some_and(|(digits, power)| {
        let zeros = digits.len() - digits.trim_end_matches('0').len();
        !digits.is_empty() && power + i64::try_from(zeros).unwrap_or(i64::MAX) < -PLACES
    })
}

/// A number without exponent and needless zeros, so that one amount has one text.
fn plain(text: &str) -> Option<String> {
    let (digits, power) = decimal::digits(text)?;
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let places = usize::try_from(power.unsigned_abs()).ok().filter(|places| *places <= DIGITS_MAX)?;
    if digits.len() > DIGITS_MAX {
        return None;
    }
    if power >= 0 {
        return Some(format!("{digits}{}", "0".repeat(places)));
    }
    let digits = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    Some(if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") })
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches('"')
}

fn compact(text: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(text);
    value.map_or_else(
        |_| text.to_owned(),
        |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        },
    )
}

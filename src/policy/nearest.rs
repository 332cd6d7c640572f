//! The name that somebody probably meant.

/// The known name most like `name`, if one is like enough to be worth suggesting.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `; did you mean NAME?`, or nothing where no known name comes near.
#[must_use]
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["messages", "metadata", "max_output_tokens"];
        assert_eq!(nearest("mesages", known), Some("messages"));
        assert_eq!(nearest("max_tokens", known), Some("max_output_tokens"));
        assert_eq!(nearest("zzz", known), None);
    }
}

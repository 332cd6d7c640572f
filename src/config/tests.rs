use super::*;
#[test]
fn default_parses() {
    let config = Config::parse(DEFAULT_TOML, Source::Embedded, &|_| None);
    assert!(config.is_ok(), "{}", config.expect_err("x"));
}

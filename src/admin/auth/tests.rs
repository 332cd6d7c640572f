//! Cases of who is let in.

use axum::http::HeaderMap;
use rstest::rstest;

use super::*;

#[test]
fn a_csrf_token_is_good_for_its_own_session_only() {
    let (one, two) = (Csrf::of("one"), Csrf::of("two"));
    assert!(one.matches(one.as_str()));
    assert!(!one.matches(two.as_str()));
    for wrong in ["", "x", &one.as_str()[1..], &format!("{}0", one.as_str())] {
        assert!(!one.matches(wrong), "{wrong}");
    }
    assert!(!Csrf(String::new()).matches(""));
}

#[rstest]
#[case(&[], false)]
#[case(&[("sec-fetch-site", "same-origin")], false)]
#[case(&[("sec-fetch-site", "none")], false)]
#[case(&[("sec-fetch-site", "same-site")], true)]
#[case(&[("sec-fetch-site", "cross-site")], true)]
#[case(&[("origin", "http://127.0.0.1:8700"), ("host", "127.0.0.1:8700")], false)]
#[case(&[("origin", "https://evil.example"), ("host", "127.0.0.1:8700")], true)]
#[case(&[("origin", "null"), ("host", "127.0.0.1:8700")], true)]
#[case(&[("origin", "http://127.0.0.1:8701"), ("host", "127.0.0.1:8700")], true)]
fn a_browser_tells_where_a_request_comes_from(
    #[case] said: &'static [(&'static str, &'static str)],
    #[case] elsewhere: bool,
) {
    let headers: HeaderMap = said
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    assert_eq!(is_from_elsewhere(&headers), elsewhere, "{said:?}");
}

#[rstest]
#[case("Bearer abc", Some("abc"))]
#[case("bearer  abc ", Some("abc"))]
#[case("Basic abc", None)]
#[case("Bearer", None)]
#[case("", None)]
fn a_bearer_token_is_read(#[case] header: &str, #[case] token: Option<&str>) {
    assert_eq!(bearer(header), token);
}

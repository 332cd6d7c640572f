//! Slack's incoming webhooks, which others such as Mattermost understand too.

use serde_json::json;

use crate::types::alert::{Alert, Severity};

/// Slack cuts longer texts off.
const CHARS_MAX: usize = 3_000;

/// The body of the request.
pub(super) fn message(alert: &Alert) -> String {
    let notice = &alert.notice;
    let mark = match notice.severity {
        Severity::Info => ":information_source:",
        Severity::Warning => ":warning:",
        Severity::Critical => ":rotating_light:",
    };
    let text: String = notice.text.chars().take(CHARS_MAX).collect();
    let text = format!("{mark} *{}*\n{}", escape(&notice.title.replace('*', "")), escape(&text));
    json!({ "text": text }).to_string()
}

/// The three characters with a meaning of their own; without them no text can call a channel or a person,
/// or pass a link off as another.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::alert;
    use crate::types::Wall;

    #[test]
    fn nothing_in_a_text_is_markup() {
        let mut notice = alert::test("ann");
        notice.title = "<!channel> & *bold*".to_owned();
        notice.text = "see <https://evil.example|your bank> \"now\"\n&amp;".to_owned();
        let alert = Alert { id: uuid::Uuid::nil(), at: Wall(0), notice };
        let body: serde_json::Value = serde_json::from_str(&message(&alert)).expect("JSON");
        assert_eq!(
            body["text"],
            ":information_source: *&lt;!channel&gt; &amp; bold*\n\
             see &lt;https://evil.example|your bank&gt; \"now\"\n&amp;amp;"
        );
    }
}

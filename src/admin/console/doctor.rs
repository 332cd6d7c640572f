//! Diagnostics: each finding with its number, what it means and what to do.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;

use super::frame::{Answer, Frame, Visitor, show};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::doctor::{Finding, Severity};

/// A finding.
pub(super) struct View {
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) word: &'static str,
    pub(super) tone: &'static str,
    pub(super) value: String,
    pub(super) meaning: String,
    pub(super) advice: String,
}

#[derive(Template)]
#[template(path = "console/doctor.html")]
struct Page {
    frame: Frame,
    urgent: Vec<View>,
    calm: Vec<View>,
}

/// The page. Looking takes a while, so it is not refreshed.
pub(super) async fn page(State(parts): State<Arc<Parts>>, visitor: Visitor) -> Answer {
    visitor.need(Action::Read, None)?;
    let findings = parts.doctor.examine().await?;
    let (urgent, calm): (Vec<_>, Vec<_>) =
        findings.iter().partition(|finding| finding.severity >= Severity::Warn);
    show(&Page {
        frame: Frame::new("Doctor", "/doctor", &visitor),
        urgent: urgent.into_iter().map(view).collect(),
        calm: calm.into_iter().map(view).collect(),
    })
}

fn view(finding: &Finding) -> View {
    let (word, tone) = match finding.severity {
        Severity::Ok => ("ok", "good"),
        Severity::Note => ("note", ""),
        Severity::Warn => ("warning", "warn"),
        Severity::Alarm => ("alarm", "bad"),
    };
    View {
        name: finding.id.replace(['_', '-'], " "),
        subject: finding.subject.clone().unwrap_or_default(),
        word,
        tone,
        value: format!("{} {}", finding.value, finding.unit),
        meaning: finding.meaning.clone(),
        advice: finding.advice.clone(),
    }
}

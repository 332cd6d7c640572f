//! `outlay doctor`: what is worth a look, each with a number, what it means and what to do.

use clap::Args;

use super::Global;
use super::output::{self, clean};
use crate::app::{self, Failed};
use crate::policy::doctor::{Finding, Severity};

/// Arguments of `outlay doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// End with exit code 1 when anything is an alarm
    #[arg(long)]
    strict: bool,
    /// Do not ask the broker what waits in its lanes
    #[arg(long)]
    skip_queue: bool,
}

pub(super) async fn run(global: &Global, args: &DoctorArgs) -> Result<u8, Failed> {
    let diagnosis = app::diagnose(&global.options(), !args.skip_queue).await?;
    if global.json {
        output::print_json(&diagnosis)?;
    } else {
        let lines: Vec<String> = diagnosis.findings.iter().map(text).collect();
        output::print(&lines.join("\n"))?;
    }
    let alarms = diagnosis.findings.iter().any(|finding| finding.severity == Severity::Alarm);
    Ok(u8::from(args.strict && alarms))
}

fn text(finding: &Finding) -> String {
    let Finding { id, severity, value, unit, .. } = finding;
    let subject = finding.subject.as_deref().map_or_else(String::new, |subject| format!(" of {subject}"));
    let mut text =
        format!("{:<5}  {id}{subject}: {value} {unit}\n       {}", severity.as_str(), finding.meaning);
    if !finding.advice.is_empty() {
        text = format!("{text}\n       -> {}", finding.advice);
    }
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_on_a_few_lines() {
        let finding = Finding {
            id: "queue_lag",
            subject: Some("bulk\u{1b}[31m".to_owned()),
            severity: Severity::Warn,
            value: "7".to_owned(),
            unit: "messages",
            meaning: "they wait".to_owned(),
            advice: "start a worker".to_owned(),
        };
        let told = text(&finding);
        assert!(!told.contains('\u{1b}'), "{told:?}");
        assert!(told.starts_with("warn   queue_lag of bulk"), "{told}");
        assert!(told.ends_with("\n       they wait\n       -> start a worker"), "{told}");
    }
}

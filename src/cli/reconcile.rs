//! `outlay reconcile`: a provider's bill beside the ledger, and bills of single calls into it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{self, dollars_nearest};
use super::{Global, ledger};
use crate::app::{self, Admin, Failed};
use crate::config::{Config, ProviderConfig, ProviderKind};
use crate::policy::reconcile::{
    self, Call, CallVerdict, Compared, DayVerdict, Export, Form, PicoUsd, days_of,
};
use crate::types::ledger::{Resolution, Resolved};
use crate::types::{AttemptId, ModelId, NanoUsd, ProviderId, Wall};

/// The largest export that is read.
const BYTES_MAX: u64 = 256 << 20;
/// Mistakes of a file that are told at once.
const TROUBLES_TOLD: usize = 20;
const DAY_US: i64 = 86_400_000_000;

/// Arguments of `outlay reconcile`.
#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// The provider's bill: OpenAI's costs (JSON pages of the API, or the dashboard's CSV), or a CSV with the
    /// columns date, provider, model, usd or attempt_id, usd
    export: PathBuf,
    /// In which form it is [default: by what it looks like]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Whose bill it is, where its lines do not say [default: the only one of kind "openai" for OpenAI's]
    #[arg(long, value_name = "P")]
    provider: Option<String>,
    /// Settle the presumed calls that the bill names one by one; sums of days change nothing
    #[arg(long)]
    apply: bool,
}

/// The `--format` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Openai,
    Csv,
}

/// The comparison as `--json` prints it.
#[derive(Debug, Serialize)]
struct ReconcileView<'a> {
    export: String,
    applied: bool,
    total: TotalView,
    days: Vec<DayView<'a>>,
    calls: Vec<CallView>,
}

#[derive(Debug, Serialize)]
struct TotalView {
    billed_usd: PicoUsd,
    settled_usd: NanoUsd,
    presumed_usd: NanoUsd,
    difference_usd: PicoUsd,
    /// Beyond all that the ledger counts, over those days and models where it is.
    unexplained_usd: PicoUsd,
}

#[derive(Debug, Serialize)]
struct DayView<'a> {
    date: String,
    provider: Option<&'a ProviderId>,
    /// The catalogue's names; empty for all models of the provider, or for none.
    models: &'a [ModelId],
    billed_for: Option<&'a str>,
    billed_usd: PicoUsd,
    calls: u64,
    settled_usd: NanoUsd,
    presumed_usd: NanoUsd,
    presumed_calls: u64,
    held_usd: NanoUsd,
    difference_usd: PicoUsd,
    /// Of the larger of bill and known bills.
    difference_percent: Option<String>,
    unexplained_usd: PicoUsd,
    verdict: DayVerdict,
}

#[derive(Debug, Serialize)]
struct CallView {
    line: u64,
    attempt: AttemptId,
    billed_usd: PicoUsd,
    verdict: &'static str,
    /// What the ledger counts of it, or held for it.
    ledger_usd: Option<NanoUsd>,
    /// Whether it was settled now.
    settled: bool,
    message: String,
}

pub(super) async fn run(global: &Global, args: &ReconcileArgs) -> Result<u8, Failed> {
    let name = args.export.display().to_string();
    let config = app::load_config(&global.options())?;
    let export = read(args, &name)?;
    if export.has_more {
        output::say(&format!("{name}: its last page says has_more: fetch all pages for a whole comparison"));
    }
    let provider = provider(&config, args, &export)?;
    let admin = app::open_admin(&global.options(), false).await?;
    let booked = match days_of(&export) {
        Some((from, until)) => admin.bills.booked_days(from, until).await?,
        None => Vec::new(),
    };
    let days = reconcile::compare(&export, &config.models, provider.as_ref(), &booked);
    let calls = calls(&admin, &export).await?;
    let calls = settle(&admin, args, &name, &calls).await?;
    let total = total(&days);
    // More was billed than all that is counted: what the caps promise does not hold for it.
    let broken = days.iter().any(|day| day.verdict == DayVerdict::AboveLedger)
        || calls.iter().any(|call| matches!(call.verdict, "differs" | "void" | "unknown" | "refused"));
    if global.json {
        let days = days.iter().map(view).collect();
        output::print_json(&ReconcileView { export: name, applied: args.apply, total, days, calls })?;
        return Ok(u8::from(broken));
    }
    tell(&days, &calls, &total)?;
    let open = calls.iter().filter(|call| call.verdict == "presumed" && !call.settled).count();
    if open > 0 {
        output::say(&format!(
            "{} can be settled by this bill: add --apply",
            output::count(open, "presumed call")
        ));
    }
    Ok(u8::from(broken))
}

fn read(args: &ReconcileArgs, name: &str) -> Result<Export, Failed> {
    let cannot = |error: std::io::Error| Failed::usage(format!("cannot read {name}: {error}"));
    if std::fs::metadata(&args.export).map_err(cannot)?.len() > BYTES_MAX {
        return Err(Failed::usage(format!("{name} is larger than 256 MiB")));
    }
    let text = std::fs::read_to_string(&args.export).map_err(cannot)?;
    let form = args.format.map(|format| match format {
        FormatArg::Openai => Form::OpenAi,
        FormatArg::Csv => Form::Csv,
    });
    reconcile::read(&text, form).map_err(|troubles| {
        let told = troubles.iter().take(TROUBLES_TOLD).map(|trouble| format!("{name}:{trouble}"));
        let mut told: Vec<String> = told.collect();
        if troubles.len() > TROUBLES_TOLD {
            told.push(format!("and {} more", troubles.len() - TROUBLES_TOLD));
        }
        Failed::usage(told.join("\n"))
    })
}

/// Whose bill it is, where its lines do not say.
fn provider(config: &Config, args: &ReconcileArgs, export: &Export) -> Result<Option<ProviderId>, Failed> {
    let known = || config.providers.iter().map(|provider| provider.id.as_str()).collect::<Vec<_>>();
    if let Some(name) = &args.provider {
        let found = config.providers.iter().find(|provider| provider.id.as_str() == name);
        return match found {
            Some(provider) => Ok(Some(provider.id.clone())),
            None => Err(output::unknown("provider", name, &known())),
        };
    }
    for line in &export.lines {
        if let Some(name) = line.provider.as_deref().filter(|name| !known().contains(name)) {
            output::say(&format!("line {}: there is no provider `{name}` in the catalogue", line.line));
            break;
        }
    }
    if export.lines.iter().all(|line| line.day.is_none() || line.provider.is_some()) {
        return Ok(None);
    }
    let is_openai = |provider: &&ProviderConfig| matches!(provider.kind, ProviderKind::OpenAi { .. });
    let mut found = match config.providers.len() {
        1 => config.providers.iter().collect::<Vec<_>>(),
        _ => config.providers.iter().filter(is_openai).collect(),
    };
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(Some(only.id.clone())),
        _ => Err(Failed::usage(format!("--provider: say whose bill it is: {}", known().join(", ")))),
    }
}

async fn calls(admin: &Admin, export: &Export) -> Result<Vec<Call>, Failed> {
    let named: Vec<AttemptId> = export.lines.iter().filter_map(|line| line.attempt).collect();
    let mut booked = HashMap::new();
    for part in named.chunks(1000) {
        for call in admin.bills.booked_calls(part).await? {
            booked.insert(call.attempt, (call.state, call.hold, call.counted));
        }
    }
    Ok(Call::all(export, &booked))
}

/// What is told of each call, and with `--apply` the bills of presumed ones into the ledger.
async fn settle(
    admin: &Admin,
    args: &ReconcileArgs,
    name: &str,
    calls: &[Call],
) -> Result<Vec<CallView>, Failed> {
    let who = app::user_name();
    let mut told = Vec::with_capacity(calls.len());
    for call in calls {
        let mut view = call_view(call);
        if let (CallVerdict::Presumed { .. }, true) = (call.verdict, args.apply) {
            let resolution = Resolution::Settle(call.billed.nano_rounded_up());
            let why = format!("{name}:{}", call.line);
            let answer =
                admin.reconcile.resolve(call.attempt, resolution, Duration::ZERO, &who, &why).await?;
            let closed = ledger::told(call.attempt, resolution, &answer);
            view.settled = answer == Resolved::Closed;
            if !view.settled {
                view.verdict = "refused";
            }
            view.message = closed.message;
        }
        told.push(view);
    }
    Ok(told)
}

fn call_view(call: &Call) -> CallView {
    let billed = dollars_nearest(call.billed.nano_rounded_up());
    let (verdict, ledger_usd, message) = match call.verdict {
        CallVerdict::Matches => ("matches", None, format!("billed {billed}, as the ledger has it")),
        CallVerdict::Differs { counted } => (
            "differs",
            Some(counted),
            format!("billed {billed}, and the ledger has {}", dollars_nearest(counted)),
        ),
        CallVerdict::Presumed { hold } => {
            ("presumed", Some(hold), format!("billed {billed} where {} is presumed", dollars_nearest(hold)))
        }
        CallVerdict::Held => ("held", None, format!("billed {billed}, and it is still under way here")),
        CallVerdict::Void => ("void", None, format!("billed {billed}, and by the ledger nothing was")),
        CallVerdict::Unknown => {
            ("unknown", None, format!("billed {billed}, and the ledger knows no such call"))
        }
    };
    CallView {
        line: call.line,
        attempt: call.attempt,
        billed_usd: call.billed,
        verdict,
        ledger_usd,
        settled: false,
        message: format!("{} {message}", call.attempt),
    }
}

fn total(days: &[Compared]) -> TotalView {
    let nano = |of: fn(&Compared) -> NanoUsd| days.iter().map(of).sum::<NanoUsd>();
    let pico = |of: fn(&Compared) -> PicoUsd| PicoUsd(days.iter().map(|day| of(day).0).sum());
    let above = days.iter().filter(|day| day.verdict == DayVerdict::AboveLedger);
    TotalView {
        billed_usd: pico(|day| day.billed),
        settled_usd: nano(|day| day.settled),
        presumed_usd: nano(|day| day.presumed),
        difference_usd: pico(Compared::difference),
        unexplained_usd: PicoUsd(above.map(|day| day.unexplained().0).sum()),
    }
}

fn view(day: &Compared) -> DayView<'_> {
    DayView {
        date: date(day.day),
        provider: day.provider.as_ref(),
        models: &day.models,
        billed_for: day.billed_for.as_deref(),
        billed_usd: day.billed,
        calls: day.calls,
        settled_usd: day.settled,
        presumed_usd: day.presumed,
        presumed_calls: day.presumed_calls,
        held_usd: day.held,
        difference_usd: day.difference(),
        difference_percent: percent(day),
        unexplained_usd: day.unexplained(),
        verdict: day.verdict,
    }
}

fn date(day: i64) -> String {
    Wall(day.saturating_mul(DAY_US)).to_string().chars().take(10).collect()
}

fn percent(day: &Compared) -> Option<String> {
    let points = day.difference_basis_points()?;
    let sign = if points < 0 { "-" } else { "" };
    Some(format!("{sign}{}.{:02}", points.abs() / 100, points.abs() % 100))
}

fn tell(days: &[Compared], calls: &[CallView], total: &TotalView) -> Result<(), Failed> {
    if !days.is_empty() {
        let headers =
            ["day (UTC)", "provider", "billed for", "billed", "settled", "presumed", "difference", "what"];
        output::table(&headers, &days.iter().map(row).collect::<Vec<_>>())?;
        output::say(&format!(
            "billed ${}, settled {}, presumed {}: a difference of ${}, ${} of it beyond all that is counted",
            total.billed_usd,
            dollars_nearest(total.settled_usd),
            dollars_nearest(total.presumed_usd),
            total.difference_usd,
            total.unexplained_usd
        ));
    }
    for call in calls {
        output::print(&format!("line {}: {}", call.line, call.message))?;
    }
    Ok(())
}

fn row(day: &Compared) -> Vec<String> {
    let all = || match (&day.billed_for, day.verdict) {
        (Some(name), _) => name.clone(),
        (None, _) => "all models".to_owned(),
    };
    let models: Vec<&str> = day.models.iter().map(ModelId::as_str).collect();
    let what = match day.verdict {
        DayVerdict::Matches if day.presumed_calls > 0 => {
            format!("matches; {} presumed calls are not on it", day.presumed_calls)
        }
        DayVerdict::Matches => "matches".to_owned(),
        DayVerdict::ExplainedByPresumed => {
            format!("{} presumed calls would explain it", day.presumed_calls)
        }
        DayVerdict::AboveLedger => format!("${} beyond all that is counted", day.unexplained()),
        DayVerdict::BelowLedger => "below the known bills".to_owned(),
        DayVerdict::NotBilled => "not on the bill".to_owned(),
        DayVerdict::NotInCatalogue => "no model of the catalogue".to_owned(),
    };
    let percent = percent(day).map(|percent| format!(" ({percent} %)")).unwrap_or_default();
    vec![
        date(day.day),
        day.provider.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        if models.is_empty() { all() } else { models.join(", ") },
        format!("${}", day.billed),
        dollars_nearest(day.settled),
        dollars_nearest(day.presumed),
        format!("${}{percent}", day.difference()),
        what,
    ]
}

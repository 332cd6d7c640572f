//! The page of a report in a browser, and the course of a fleet recorded for one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use outlay_loadtest::record::{Allowance, Recorder, RecorderOptions};
use outlay_loadtest::report::{
    Band, BandRow, Bar, Chart, Mark, Plot, Report, Series, Table, Tone, replace_file,
};

use crate::e2e::{PATIENCE, ids, rig, sender};

/// A browser starts in a second or two, or not at all.
const BROWSER_PATIENCE: Duration = Duration::from_secs(90);
/// What small text must have against its ground: WCAG 2.2, level AA.
const CONTRAST_MIN: f64 = 4.5;
const PROBE: &str = include_str!("report/probe.js");

/// Everything that a report can hold, and texts that would like to be markup.
fn rich() -> Report {
    let evil = "</script><script>console.error('markup')</script> & \"quotes\" \u{1f600}";
    let mut report = Report { title: format!("drill kill, seed 7 {evil}"), ..Report::default() };
    for n in 0..9 {
        report.fact(&format!("fact {n}"), format!("{n},000 of {}", "something-without-a-blank-".repeat(n)));
    }
    report.check("Bills stay within the cap of every window", true, "$11.82 of $12.00");
    report.check("Each job has one outcome", false, "a-very-long-id-that-has-no-blank-".repeat(8));
    report.check(evil, false, evil);
    let names: Vec<String> = (0..14).map(|n| format!("column {n}, ms")).collect();
    let columns: Vec<(&str, bool)> =
        names.iter().enumerate().map(|(n, name)| (name.as_str(), n > 0)).collect();
    let mut table = Table::new("A wide table", &columns);
    table.rows = (0..6).map(|n| (0..14).map(|m| format!("{n}{m},123.45")).collect()).collect();
    table.note = evil.into();
    report.tables.push(table);
    report.charts = charts();
    report.charts[0].title = evil.into();
    report
}

fn charts() -> Vec<Chart> {
    let curve = |name: &str, level: f64| {
        let point = |n: i32| (f64::from(n) / 4.0, level + (f64::from(n) / 9.0).sin());
        Series { name: name.into(), points: (0..480).map(point).collect(), is_limit: false }
    };
    let limit = |level: f64| Series {
        is_limit: true,
        points: vec![(0.0, level), (120.0, level)],
        ..curve("cap", 0.0)
    };
    let mark = |at_s: f64, label: &str| Mark { at_s, label: label.into() };
    let few = vec![mark(20.0, "kill worker 2"), mark(24.0, "start worker 4"), mark(119.0, "resume broker")];
    let many: Vec<Mark> =
        (0..30).map(|n| mark(f64::from(n) * 4.0, "cut the connection to the broker")).collect();
    let band = |from_s, until_s, state: &str, tone| Band { from_s, until_s, state: state.into(), tone };
    let bands = vec![
        band(0.0, 40.0, "closed", Tone::Good),
        band(40.0, 45.0, "open", Tone::Bad),
        band(45.0, 46.0, "probing", Tone::Fair),
        band(46.0, 120.0, "unknown", Tone::Quiet),
    ];
    let row = |name: &str| BandRow { name: name.into(), bands: bands.clone() };
    let bar = |label: &str, value, is_reference| Bar { label: label.into(), value, is_reference };
    let chart = |title: &str, unit: &str, plot, marks: &[Mark]| Chart {
        title: title.into(),
        unit: unit.into(),
        plot,
        marks: marks.to_vec(),
    };
    let lines =
        |count: usize| (0..count).map(|n| curve(&format!("series {n}"), n as f64 * 3.0 + 2.0)).collect();
    let stack = vec![curve("spent", 6.0), curve("presumed", 1.0), curve("held", 3.0), limit(14.0)];
    let long = "a provider with a long name / a model with an even longer name, of last year";
    vec![
        chart("One line", "jobs/s", Plot::Lines { series: lines(1) }, &few),
        chart("Eight lines", "s", Plot::Lines { series: lines(8) }, &many),
        chart("Money", "$", Plot::Stack { series: stack }, &few),
        chart("States", "", Plot::Bands { rows: vec![row("mock"), row("mock / small")] }, &few),
        chart("Long names", "", Plot::Bands { rows: vec![row(long)] }, &many),
        chart("Bars", "$", Plot::Bars { bars: vec![bar("all", 20.4, true), bar("ours", 7.3, false)] }, &[]),
        chart(
            "Long bars",
            "ms",
            Plot::Bars { bars: vec![bar(long, 1e7, false), bar("b", -5.0, false)] },
            &[],
        ),
        chart("Nothing", "ms", Plot::Lines { series: Vec::new() }, &[]),
    ]
}

/// Loads a page to its end: the document then, and what the console said.
async fn load(browser: &Path, page: &Path, is_dark: bool) -> (String, Vec<String>) {
    let profile = tempfile::tempdir().expect("a folder");
    let mut command = tokio::process::Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", "--window-size=1400,1000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--blink-settings=preferredColorScheme={}", if is_dark { 0 } else { 1 }))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let done = tokio::time::timeout(BROWSER_PATIENCE, command.output());
    let done = done.await.expect("the browser ends").expect("the browser starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", done.status);
    let console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    (String::from_utf8_lossy(&done.stdout).into_owned(), console)
}

/// What the probe found in a page that is `width` pixels wide, and what the console said.
async fn probe(browser: &Path, html: &str, width: u32, is_dark: bool) -> (serde_json::Value, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    // The window of a headless browser has a least width, a frame has none.
    let inside = html.replace('&', "&amp;").replace('"', "&quot;");
    let scheme = if is_dark { "dark" } else { "light" };
    let wrapper = format!(
        "<!doctype html><meta charset=\"utf-8\"><link rel=\"icon\" href=\"data:,\"><title>probe</title>\
         <iframe style=\"width:{width}px;height:900px;border:0;color-scheme:{scheme}\" srcdoc=\"{inside}\"></iframe>\
         <pre></pre><script>{PROBE}</script>"
    );
    let page = folder.path().join("wrapper.html");
    std::fs::write(&page, wrapper).expect("a file");
    let (document, console) = load(browser, &page, is_dark).await;
    let found = document.rsplit_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>"));
    let found = found.unwrap_or_else(|| panic!("{document} {console:?}")).0.replace("&amp;", "&");
    let found = found.replace("&lt;", "<").replace("&gt;", ">");
    (serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found} {console:?}")), console)
}

#[tokio::test]
async fn the_page_is_readable_at_every_width_and_in_both_themes() {
    let Some(browser) = crate::support::browser::chromium() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.html");
    let report = rich();
    replace_file(&path, &report.to_html().expect("a page")).expect("written");
    // As people open it.
    let (document, console) = load(&browser, &path, false).await;
    assert_eq!(console, [""; 0]);
    assert!(document.contains("2 of 3 checks did not hold."), "{document}");
    let html = std::fs::read_to_string(&path).expect("the page");
    for (width, is_dark) in [(1280, false), (1280, true), (390, false), (390, true)] {
        let (found, console) = probe(&browser, &html, width, is_dark).await;
        let case = format!("{width} px, dark: {is_dark}: {found}");
        assert_eq!(console, [""; 0], "{case}");
        assert_eq!(found["problems"], serde_json::json!([]), "{case}");
        // One of the two drawings of each chart.
        assert_eq!(found["pictures"], report.charts.len(), "{case}");
        assert_eq!(found["isDark"], is_dark, "{case}");
        assert!(found["textMin"].as_f64().is_some_and(|px| (11.0..90.0).contains(&px)), "{case}");
        assert!(
            found["contrastMin"].as_f64().is_some_and(|least| (CONTRAST_MIN..90.0).contains(&least)),
            "{case}"
        );
    }
}

#[tokio::test]
async fn the_probe_finds_what_it_looks_for() {
    let Some(browser) = crate::support::browser::chromium() else { return };
    let page = "<!doctype html><body><p style=\"width:2000px;color:#ddd\">wide and pale</p>\
                <script>console.error(\"caught\")</script>";
    let (found, console) = probe(&browser, page, 390, false).await;
    assert_eq!(found["problems"].as_array().map(Vec::len), Some(1), "{found}");
    assert!(found["contrastMin"].as_f64().is_some_and(|least| least < 2.0), "{found}");
    assert!(console.len() == 1 && console[0].contains("caught"), "{console:?}");
}

/// The sum of a series.
fn total(series: &Series) -> f64 {
    series.points.iter().map(|(_, value)| value).filter(|value| value.is_finite()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_course_of_a_fleet_is_recorded() {
    let Some(rig) = rig(|_| {}).await else { return };
    let allowance =
        Allowance { provider: "mock".into(), requests_per_minute: Some(600), tokens_per_minute: None };
    let options = RecorderOptions {
        jobs: Some(300),
        allowances: vec![allowance],
        every: Duration::from_millis(250),
        ..RecorderOptions::new(&rig)
    };
    let recorder = Recorder::start(options);
    let handle = recorder.handle();
    let worker = rig.worker().await.expect("a worker");
    handle.watch(&worker);
    handle.mark("send jobs");
    sender(&rig).await.send_all(ids("job", 300), "p").await.expect("sent");
    let counts = rig.until(PATIENCE, |counts| counts.results == 300).await.expect("every result");
    worker.kill().expect("killed");
    handle.mark("kill worker");
    let charts = recorder.finish().await;
    let titles: Vec<_> = charts.iter().map(|chart| chart.title.as_str()).collect();
    let chart = |start: &str| {
        let found = charts.iter().find(|chart| chart.title.starts_with(start));
        found.unwrap_or_else(|| panic!("{start} is not among {titles:?}"))
    };
    let Plot::Lines { series } = &chart("Results").plot else { panic!("{titles:?}") };
    let lengths = std::iter::once(0.0).chain(series[0].points.iter().map(|point| point.0));
    let results: f64 =
        series[0].points.iter().zip(lengths).map(|((until, rate), from)| rate * (until - from)).sum();
    assert!((results - 300.0).abs() < 1.0, "{results} results in {series:?}");
    let Plot::Lines { series } = &chart("Latency").plot else { panic!("{titles:?}") };
    assert!(series.len() == 3 && total(&series[0]) > 0.0, "{series:?}");
    let Plot::Stack { series } = &chart("Money of project p").plot else { panic!("{titles:?}") };
    let last = series[0].points.iter().rfind(|point| point.1.is_finite()).expect("a look").1;
    assert!((last * 1e9 - counts.spent_nano_usd as f64).abs() < 2.0, "{last} and {counts:?}");
    assert!(series[3].is_limit && series[3].points[0].1 == 1_000_000.0, "{:?}", series[3]);
    let Plot::Lines { series } = &chart("Limits").plot else { panic!("{titles:?}") };
    let used = series[0].points.last().expect("a second").1;
    assert!((used - 50.0).abs() < 0.1, "{used}");
    assert!(charts.iter().all(|chart| chart.marks.len() == 2 && chart.marks[1].label == "kill worker"));
    rig.close().await.expect("closed");
}

#[tokio::test]
async fn without_a_database_a_recording_is_empty_and_no_failure() {
    let options = RecorderOptions {
        // Nothing listens there.
        database_url: "postgres://root@127.0.0.1:1/none".into(),
        every: Duration::from_millis(250),
        jobs: None,
        allowances: Vec::new(),
        is_live: true,
    };
    let recorder = Recorder::start(options);
    recorder.mark("nobody is there");
    assert!(recorder.finish().await.is_empty());
}

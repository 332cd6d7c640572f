//! The dashboard, the scrape and the units that are shipped: what they name has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Names of metrics in a text, a histogram's by its own name.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.split(|c| !word(c)).filter(|name| name.starts_with("outlay_"));
    names
        .map(|name| {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            histogram.unwrap_or(name).to_owned()
        })
        .collect()
}

/// The metrics that are documented, each with the names of its labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let line = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?.to_owned();
        let labels = cells.get(3)?.split(',').map(str::trim).filter(|label| !label.is_empty());
        Some((name, labels.map(str::to_owned).collect()))
    };
    read("docs/METRICS.md").lines().filter_map(line).collect()
}

/// Every expression of a dashboard, with its panel's title.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut all = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        all.extend(targets.iter().map(|target| (text(&panel["title"]), text(&target["expr"]))));
    }
    all
}

/// Brackets match, words are known functions, operators, labels or metrics, and a rate has its span.
fn check_expression(expression: &str, labels: &BTreeSet<String>) {
    const WORDS: [&str; 13] = [
        "sum",
        "max",
        "min",
        "count",
        "by",
        "rate",
        "increase",
        "histogram_quantile",
        "or",
        "vector",
        "le",
        "h",
        "m",
    ];
    let mut open = Vec::new();
    for c in expression.chars() {
        match c {
            '(' | '{' | '[' => open.push(c),
            ')' => assert_eq!(open.pop(), Some('('), "{expression}"),
            '}' => assert_eq!(open.pop(), Some('{'), "{expression}"),
            ']' => assert_eq!(open.pop(), Some('['), "{expression}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{expression}");
    // Without what stands in quotes.
    let plain: String = expression.split('"').step_by(2).collect();
    for word in
        plain.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
    {
        let is_number = word.chars().next().is_some_and(|c| c.is_ascii_digit());
        let known =
            is_number || word.starts_with("outlay_") || WORDS.contains(&word) || labels.contains(word);
        assert!(known, "{expression}: {word}");
    }
    for function in ["rate(", "increase("] {
        for rest in plain.split(function).skip(1) {
            let inner = rest.split(')').next().unwrap_or_default();
            assert!(inner.ends_with(']') && inner.contains('['), "{expression}: {function}{inner})");
            let metric = metrics(inner).pop_first().unwrap_or_default();
            assert!(
                inner.contains("_bucket") || metric.ends_with("_total"),
                "{expression}: {metric} is no counter"
            );
        }
    }
}

#[test]
fn the_dashboard_shows_what_workers_count() {
    let dashboard: Value =
        serde_json::from_str(&read("observe/grafana/dashboards/outlay.json")).expect("JSON");
    let documented = documented();
    assert!(documented.len() > 20, "{documented:?}");
    let source = read("src/telemetry.rs") + &read("src/app/vitals.rs");
    let counted = metrics(&source);
    let unknown: Vec<_> = documented.keys().filter(|name| !counted.contains(*name)).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "documented, and counted nowhere");
    let mut shown = BTreeSet::new();
    for (title, expression) in expressions(&dashboard) {
        let names = metrics(&expression);
        let mut labels = BTreeSet::new();
        for name in &names {
            let its = documented.get(name).unwrap_or_else(|| panic!("{title}: {name} is not in METRICS.md"));
            labels.extend(its.iter().cloned());
        }
        check_expression(&expression, &labels);
        shown.extend(names);
    }
    let left_out: Vec<_> = documented.keys().filter(|name| !shown.contains(*name)).collect();
    assert_eq!(left_out, Vec::<&String>::new(), "on no panel");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "ids repeat");
    let source = &panels.iter().find(|panel| panel["type"] != "row").expect("a panel")["datasource"]["uid"];
    let provisioned = read("observe/grafana/provisioning/datasources/prometheus.yml");
    assert!(provisioned.contains(&format!("uid: {}", source.as_str().expect("a uid"))));
}

#[test]
fn an_expression_that_is_wrong_is_caught() {
    let labels = BTreeSet::from(["model".to_owned()]);
    check_expression("sum by (model) (rate(outlay_x_total{model=\"a b\"}[5m])) * 3600 / 1e9", &labels);
    for wrong in [
        "sum(outlay_x",
        "sum by (provider) (outlay_x)",
        "rate(outlay_x_total)",
        "rate(outlay_x[5m])",
        "avg(outlay_x)",
    ] {
        let caught = std::panic::catch_unwind(|| check_expression(wrong, &labels));
        assert!(caught.is_err(), "{wrong}");
    }
}

#[test]
fn the_units_are_what_systemd_reads() {
    for unit in ["outlay-worker.service", "outlay-admin.service"] {
        let text = read(&format!("examples/systemd/{unit}"));
        assert!(text.contains("ExecStart=/usr/local/bin/outlay --config /etc/outlay/outlay.toml "), "{unit}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(unit);
        std::fs::write(&path, text.replace("/usr/local/bin/outlay", env!("CARGO_BIN_EXE_outlay")))
            .expect("a unit");
        match Command::new("systemd-analyze").arg("verify").arg(&path).output() {
            Ok(verified) => {
                let said = String::from_utf8_lossy(&verified.stderr).into_owned();
                assert!(verified.status.success() && !said.contains(unit), "{unit}: {said}");
            }
            Err(error) => eprintln!("skipped: systemd-analyze: {error}"),
        }
    }
}

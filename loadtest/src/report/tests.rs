//! Reports of every shape, as page, JSON and text.

use super::*;

fn report() -> Report {
    let mut report = Report { title: "drill kill".into(), ..Report::default() };
    report.fact("seed", 7);
    report.check("bills stay within the cap", true, "$11.82 of $12.00");
    report.check("one outcome per job", false, "job 12 has two");
    let mut table = Table::new("Policies", &[("policy", false), ("cost, $", true)]);
    table.rows.push(vec!["ours".into(), "7.31".into()]);
    table.note = "Lower is better.".into();
    report.tables.push(table);
    let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)];
    let series = vec![Series { name: "results".into(), points, is_limit: false }];
    let marks = vec![Mark { at_s: 1.0, label: "kill worker".into() }];
    report.charts.push(Chart {
        title: "Results".into(),
        unit: "jobs/s".into(),
        plot: Plot::Lines { series },
        marks,
    });
    report
}

#[test]
fn the_verdict_says_how_many_did_not_hold() {
    let mut report = Report::default();
    assert_eq!((report.held(), report.verdict().as_str()), (true, "Nothing was checked."));
    report.check("a", true, "");
    assert_eq!((report.held(), report.verdict().as_str()), (true, "The check held."));
    report.check("b", true, "");
    assert_eq!((report.held(), report.verdict().as_str()), (true, "All 2 checks held."));
    report.check("c", false, "");
    assert_eq!((report.held(), report.verdict().as_str()), (false, "1 of 3 checks did not hold."));
}

#[test]
fn the_page_shows_everything_and_fetches_nothing() {
    let page = report().to_html().unwrap();
    for expected in [
        "<title>drill kill</title>",
        "<header class=\"broken\">",
        "1 of 2 checks did not hold.",
        "<dt>seed</dt><dd>7</dd>",
        "<li class=\"held\">",
        "<li class=\"broken\">",
        "$11.82 of $12.00",
        "<th scope=\"col\" class=\"number\">cost, $</th>",
        "<th scope=\"row\">ours</th><td class=\"number\">7.31</td>",
        "Lower is better.",
        "<h3>Results</h3>",
    ] {
        assert!(page.contains(expected), "{expected} is missing in {page}");
    }
    // What did not hold is at the top too.
    assert_eq!(page.matches("job 12 has two").count(), 2);
    assert_eq!(page.matches("<svg ").count(), 2, "for wide and for narrow screens");
    let inside = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "url(", "@import", "<script"] {
        assert!(!inside.contains(outside), "{outside}");
    }
    let mut all_held = report();
    all_held.checks.pop();
    assert!(all_held.to_html().unwrap().contains("<header class=\"held\">"));
    assert!(Report::default().to_html().unwrap().contains("<header class=\"none\">"));
}

#[test]
fn ids_are_unique_in_a_page() {
    let mut report = report();
    report.charts.push(report.charts[0].clone());
    report.tables.push(report.tables[0].clone());
    let page = report.to_html().unwrap();
    let mut ids: Vec<_> = page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "{ids:?}");
    for named in page.split("aria-labelledby=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(named.split(' ').all(|id| ids.contains(&id)), "{named}");
    }
}

#[test]
fn texts_are_never_markup() {
    let evil = "<script>alert('x')</script> & \"quotes\" \u{1f600}";
    let mut report = Report { title: evil.into(), ..report() };
    report.fact(evil, evil);
    report.check(evil, false, evil);
    let mut table = Table::new(evil, &[(evil, false)]);
    table.rows.push(vec![evil.into(), evil.into()]);
    table.note = evil.into();
    report.tables.push(table);
    report.charts[0].title = evil.into();
    report.charts[0].marks[0].label = evil.into();
    let page = report.to_html().unwrap();
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("\u{1f600}"));
}

#[test]
fn json_is_versioned_and_keeps_its_names() {
    let json: serde_json::Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
    let expected = serde_json::json!({
        "version": 1,
        "held": false,
        "title": "drill kill",
        "facts": [{"name": "seed", "value": "7"}],
        "checks": [
            {"name": "bills stay within the cap", "held": true, "detail": "$11.82 of $12.00"},
            {"name": "one outcome per job", "held": false, "detail": "job 12 has two"},
        ],
        "tables": [{
            "title": "Policies",
            "columns": [{"name": "policy", "is_number": false}, {"name": "cost, $", "is_number": true}],
            "rows": [["ours", "7.31"]],
            "note": "Lower is better.",
        }],
        "charts": [{
            "title": "Results",
            "unit": "jobs/s",
            "plot": {"kind": "lines", "series": [
                {"name": "results", "points": [[0.0, 1.0], [1.0, null], [2.0, 3.0]], "is_limit": false},
            ]},
            "marks": [{"at_s": 1.0, "label": "kill worker"}],
        }],
    });
    assert_eq!(json, expected);
}

#[test]
fn the_summary_begins_and_ends_with_what_did_not_hold() {
    let text = report().summary(Screen::PLAIN);
    let expected = "drill kill\n\
                    BROKEN  one outcome per job: job 12 has two\n\
                    \n\
                    seed  7\n\
                    \n\
                    Policies\n\
                    policy\tcost, $\n\
                    ours\t7.31\n\
                    Lower is better.\n\
                    \n\
                    held    bills stay within the cap: $11.82 of $12.00\n\
                    BROKEN  one outcome per job: job 12 has two\n\
                    1 of 2 checks did not hold.\n";
    assert_eq!(text, expected);
}

#[test]
fn a_terminal_gets_lines_and_colours_and_nothing_to_obey() {
    let mut report = report();
    report.fact("name", "\x1b[2Jgone\n");
    let coloured = report.summary(Screen { has_lines: true, has_colours: true });
    assert!(coloured.contains("\x1b[1;31mBROKEN\x1b[0m") && coloured.contains('│'), "{coloured}");
    assert!(!coloured.contains("\x1b[2J"));
    let plain = report.summary(Screen { has_lines: true, has_colours: false });
    assert!(!plain.contains('\x1b') && plain.contains('│'), "{plain}");
}

//! Pictures of ordinary and of extreme figures. What they look like is looked at in a browser; here it is that
//! everything is there, nothing lies outside, and no text becomes markup.

use super::*;

fn series(name: &str, points: &[(f64, f64)]) -> Series {
    Series { name: name.into(), points: points.to_vec(), is_limit: false }
}

fn limit(name: &str, points: &[(f64, f64)]) -> Series {
    Series { is_limit: true, ..series(name, points) }
}

fn mark(at_s: f64, label: &str) -> Mark {
    Mark { at_s, label: label.into() }
}

fn band(from_s: f64, until_s: f64, state: &str, tone: Tone) -> Band {
    Band { from_s, until_s, state: state.into(), tone }
}

fn bar(label: &str, value: f64) -> Bar {
    Bar { label: label.into(), value, is_reference: false }
}

fn chart(unit: &str, plot: Plot) -> Chart {
    Chart { title: "A title".into(), unit: unit.into(), plot, marks: Vec::new() }
}

/// Draws at both widths, checks what holds for every picture, and returns the wide one.
#[track_caller]
fn drawn(chart: &Chart) -> String {
    let [wide, narrow] = [Width::Wide, Width::Narrow].map(|width| {
        let picture = svg(chart, "x", width);
        check_markup(&picture);
        check_inside(&picture, width.px());
        picture
    });
    assert_eq!(texts(&wide).is_empty(), texts(&narrow).is_empty());
    wide
}

/// Every tag is closed in order, every attribute is in double quotes, and no number is missing.
#[track_caller]
fn check_markup(picture: &str) {
    let mut open = Vec::new();
    for part in picture.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("a tag without an end: {part}"));
        assert!(!text.contains('>') || text.contains("&gt;"), "{part}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_matches('/').split(' ').next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{picture}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert!(
            ["svg", "title", "desc", "g", "path", "rect", "circle", "text", "style"].contains(&name),
            "{name}"
        );
    }
    assert!(open.is_empty(), "{open:?} stay open");
    for nonsense in ["NaN", "inf", "e+", "-2147483648", "214748364"] {
        let drawn = picture.split("</desc>").nth(1).unwrap();
        let attributes = drawn.split('<').filter_map(|part| part.split_once('>')).map(|(tag, _)| tag);
        assert!(!attributes.clone().any(|tag| tag.contains(nonsense)), "{nonsense} in {picture}");
    }
}

/// Every coordinate lies in the view box.
#[track_caller]
fn check_inside(picture: &str, width: i32) {
    let height: f64 = attribute(picture, "viewBox").split(' ').nth(3).unwrap().parse().unwrap();
    for path in picture.split(" d=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        for point in path.trim_end_matches('Z').split(['M', 'L']).filter(|point| !point.is_empty()) {
            let (x, y) = point.split_once(' ').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            let inside = (-1.0..=f64::from(width) + 1.0).contains(&x) && (-1.0..=height + 1.0).contains(&y);
            assert!(inside, "{point} is outside of {width} x {height}");
        }
    }
    for rect in picture.split("<rect ").skip(1) {
        let number = |name: &str| attribute(rect, name).parse::<f64>().unwrap();
        assert!(number("x") >= -1.0 && number("x") + number("width") <= f64::from(width) + 1.0, "{rect}");
    }
}

fn attribute<'a>(tag: &'a str, name: &str) -> &'a str {
    let start =
        tag.find(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {tag}")) + name.len() + 2;
    tag[start..].split('"').next().unwrap()
}

/// Visible texts, in the order of drawing.
fn texts(picture: &str) -> Vec<&str> {
    let parts = picture.split("<text ").skip(1);
    parts.map(|part| part.split_once('>').unwrap().1.split('<').next().unwrap()).collect()
}

fn count(picture: &str, class: &str) -> usize {
    picture.matches(&format!("class=\"{class}\"")).count()
}

#[test]
fn lines_have_axes_a_legend_and_a_limit() {
    let points: Vec<_> = (0..=120).map(|n| (f64::from(n), f64::from(n % 10))).collect();
    let mut chart = chart(
        "jobs/s",
        Plot::Lines {
            series: vec![series("results", &points), series("calls", &points), limit("most", &[(0.0, 12.0)])],
        },
    );
    chart.marks = vec![mark(20.0, "kill worker 2"), mark(60.0, "pause broker")];
    let picture = drawn(&chart);
    let texts = texts(&picture);
    for expected in [
        "results",
        "calls",
        "most",
        "jobs/s",
        "kill worker 2",
        "pause broker",
        "0s",
        "1m",
        "2m",
        "0",
        "5",
        "10",
        "15",
    ] {
        assert!(texts.contains(&expected), "{expected} is missing in {texts:?}");
    }
    // Each has its sample in the legend and its line.
    assert_eq!([count(&picture, "line s0"), count(&picture, "line s1"), count(&picture, "limit")], [2, 2, 2]);
    assert_eq!(count(&picture, "mark"), 2);
    assert!(picture.contains("role=\"img\" aria-labelledby=\"x-t x-d\""));
    assert!(picture.contains("<title id=\"x-t\">A title</title><desc id=\"x-d\">"));
    assert!(picture.contains("From 0s to 2m. kill worker 2 at 20s. pause broker at 1m."));
    assert!(picture.contains("results: between 0 jobs/s and 9 jobs/s."));
}

#[test]
fn without_figures_the_picture_says_so() {
    let nothing = [
        Plot::Lines { series: vec![] },
        Plot::Lines { series: vec![series("a", &[])] },
        Plot::Lines { series: vec![series("a", &[(f64::NAN, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY)])] },
        Plot::Stack { series: vec![series("a", &[]), series("b", &[])] },
        Plot::Bands { rows: vec![] },
        Plot::Bands {
            rows: vec![BandRow { name: "a".into(), bands: vec![band(f64::NAN, 1.0, "x", Tone::Bad)] }],
        },
        Plot::Bars { bars: vec![] },
    ];
    for plot in nothing {
        let picture = drawn(&chart("ms", plot));
        assert!(texts(&picture).iter().any(|text| text.starts_with("No ")), "{picture}");
    }
}

#[test]
fn one_point_is_a_dot_and_equal_figures_are_a_line() {
    let picture = drawn(&chart("$", Plot::Lines { series: vec![series("spent", &[(3.0, 0.5)])] }));
    assert_eq!(picture.matches("<circle").count(), 1);
    let zero = drawn(&chart("", Plot::Lines { series: vec![series("a", &[(0.0, 0.0), (9.0, 0.0)])] }));
    assert_eq!(count(&zero, "line s0"), 2);
    let at_zero = drawn(&chart("", Plot::Lines { series: vec![series("a", &[(0.0, 0.0)])] }));
    assert_eq!(at_zero.matches("<circle").count(), 1);
    let moment =
        chart("", Plot::Stack { series: vec![series("a", &[(5.0, 2.0)]), series("b", &[(5.0, 1.0)])] });
    let moment = drawn(&moment);
    assert_eq!([count(&moment, "area s0"), count(&moment, "area s1")], [2, 2], "{moment}");
}

#[test]
fn extreme_figures_are_drawn() {
    for values in [[1e-12, 3e-12], [1e14, 9e15], [-5.0, 5.0], [-3.0, -1.0], [1e299, 9e299], [-1e299, 1e299]] {
        let points = [(0.0, values[0]), (1.0, values[1])];
        let picture = drawn(&chart("", Plot::Lines { series: vec![series("a", &points)] }));
        assert_eq!(count(&picture, "line s0"), 2, "{values:?}");
        drawn(&chart("", Plot::Stack { series: vec![series("a", &points)] }));
        drawn(&chart("", Plot::Bars { bars: vec![bar("a", values[0]), bar("b", values[1])] }));
    }
    for until in [1e-7, 1e9] {
        drawn(&chart("", Plot::Lines { series: vec![series("a", &[(0.0, 1.0), (until, 2.0)])] }));
    }
}

#[test]
fn gaps_stay_gaps() {
    let points = [(0.0, 1.0), (1.0, 1.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 1.0)];
    let picture = drawn(&chart("", Plot::Lines { series: vec![series("a", &points)] }));
    assert_eq!(count(&picture, "line s0"), 3, "two stretches and the legend: {picture}");
    let stack = drawn(&chart("", Plot::Stack { series: vec![series("a", &points), series("b", &points)] }));
    assert_eq!(count(&stack, "area s1"), 3, "two stretches and the legend: {stack}");
}

#[test]
fn a_gap_at_the_end_is_shown_as_one() {
    let series = || vec![series("a", &[(0.0, 1.0), (10.0, 1.0), (60.0, f64::NAN)])];
    for plot in [Plot::Lines { series: series() }, Plot::Stack { series: series() }] {
        assert!(texts(&drawn(&chart("", plot))).contains(&"1m"));
    }
}

#[test]
fn ten_thousand_points_become_a_small_picture() {
    let points: Vec<_> = (0..10_000).map(|n| (f64::from(n), f64::from(n * 7919 % 1000))).collect();
    let lines = drawn(&chart("", Plot::Lines { series: vec![series("a", &points)] }));
    let shares = vec![series("a", &points), series("b", &points)];
    let stack = drawn(&chart("", Plot::Stack { series: shares }));
    assert!(lines.len() < 60_000 && stack.len() < 120_000, "{} and {} bytes", lines.len(), stack.len());
}

#[test]
fn thirty_marks_are_numbered_and_listed() {
    let mut chart = chart("ms", Plot::Lines { series: vec![series("a", &[(0.0, 1.0), (90.0, 2.0)])] });
    chart.marks = (0..30).map(|n| mark(f64::from(n) * 3.0, "cut connection")).collect();
    chart.marks.push(mark(f64::NAN, "never"));
    let picture = drawn(&chart);
    assert_eq!(count(&picture, "mark"), 30);
    assert!(texts(&picture).contains(&"1\u{2013}30 cut connection"), "{:?}", texts(&picture));
    assert!(!picture.contains("never"));
}

#[test]
fn a_limit_far_above_is_told_and_not_drawn() {
    let spent = series("spent", &[(0.0, 0.0), (9.0, 2.0)]);
    let far = vec![spent.clone(), limit("cap", &[(0.0, 1000.0), (9.0, 1000.0)])];
    let picture = drawn(&chart("$", Plot::Stack { series: far }));
    assert!(texts(&picture).contains(&"cap: $1,000, far above"), "{:?}", texts(&picture));
    assert_eq!(count(&picture, "limit"), 1, "in the legend only");
    let near = vec![spent, limit("cap", &[(0.0, 3.0), (9.0, 3.0)])];
    assert_eq!(count(&drawn(&chart("$", Plot::Stack { series: near })), "limit"), 2);
}

#[test]
fn states_have_their_names_and_bad_ones_a_hatch() {
    let bands = vec![band(0.0, 50.0, "closed", Tone::Good), band(50.0, 51.0, "open", Tone::Bad)];
    let rows = vec![
        BandRow { name: "mock / small".into(), bands },
        BandRow { name: "mock / large".into(), bands: vec![band(0.0, 60.0, "unknown", Tone::Quiet)] },
    ];
    let picture = drawn(&chart("", Plot::Bands { rows }));
    let texts = texts(&picture);
    for expected in ["mock / small", "mock / large"] {
        assert!(texts.contains(&expected), "{texts:?}");
    }
    // In the legend and, where they last long enough, in the band.
    let times = |state: &str| texts.iter().filter(|text| **text == state).count();
    assert_eq!([times("closed"), times("open"), times("unknown")], [2, 1, 2]);
    assert_eq!([count(&picture, "hatch bad"), count(&picture, "band bad")], [2, 2]);
    assert!(picture.contains("<title>open for 1s, from 50s</title>"));
}

#[test]
fn bars_have_their_values() {
    let mut bars =
        vec![bar("premium only", 20.42), bar("ours", 7.3), bar("nothing", 0.0), bar("none", f64::NAN)];
    bars[0].is_reference = true;
    let picture = drawn(&chart("$", Plot::Bars { bars }));
    for expected in ["premium only", "$20.42", "ours", "$7.30", "$0", "no number"] {
        assert!(texts(&picture).contains(&expected), "{expected}: {:?}", texts(&picture));
    }
    assert_eq!([count(&picture, "bar reference"), count(&picture, "bar")], [2, 1]);
}

#[test]
fn more_than_a_screen_can_show_is_counted() {
    let bars = (0..500).map(|n| bar(&format!("bar {n}"), f64::from(n))).collect();
    assert!(texts(&drawn(&chart("", Plot::Bars { bars }))).contains(&"and 436 more"));
    let row = |n| BandRow { name: format!("row {n}"), bands: vec![band(0.0, 1.0, "closed", Tone::Good)] };
    let picture = drawn(&chart("", Plot::Bands { rows: (0..100).map(row).collect() }));
    assert!(texts(&picture).contains(&"and 36 more"));
    let many = (0..100).map(|n| series(&format!("s{n}"), &[(0.0, 1.0), (1.0, 2.0)])).collect();
    drawn(&chart("", Plot::Lines { series: many }));
}

#[test]
fn texts_are_never_markup() {
    let evil = "</text><script>alert(\"1\")</script> & 'x' \u{1f600}\u{7}\u{0}";
    let all = [
        Plot::Lines { series: vec![series(evil, &[(0.0, 1.0), (1.0, 2.0)]), limit(evil, &[(0.0, 1.0)])] },
        Plot::Stack { series: vec![series(evil, &[(0.0, 9.0), (1.0, 9.0)])] },
        Plot::Bands {
            rows: vec![BandRow { name: evil.into(), bands: vec![band(0.0, 9.0, evil, Tone::Fair)] }],
        },
        Plot::Bars { bars: vec![bar(evil, 1.0)] },
    ];
    for plot in all {
        let chart = Chart { title: evil.into(), unit: evil.into(), plot, marks: vec![mark(0.5, evil)] };
        for picture in [drawn(&chart), document(&chart), svg(&chart, evil, Width::Narrow)] {
            assert!(!picture.contains("<script"), "{picture}");
            assert!(!picture.contains('\u{7}') && !picture.contains('\u{0}'));
            assert!(picture.contains("&lt;script&gt;"));
        }
    }
}

#[test]
fn a_document_stands_alone() {
    let picture =
        document(&chart("ms", Plot::Lines { series: vec![series("a", &[(0.0, 1.0), (1.0, 2.0)])] }));
    check_markup(&picture);
    assert!(picture.contains("<style>") && texts(&picture).contains(&"A title"));
    for outside in ["http://", "https://", "url(", "@import"] {
        let namespace = "http://www.w3.org/2000/svg";
        assert!(!picture.replace(namespace, "").contains(outside), "{outside}");
    }
}

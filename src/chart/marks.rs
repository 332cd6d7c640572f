//! Where the names of events stand above a plot, so that none lies on another.

use plotters::style::text_anchor::HPos;

use super::Mark;
use super::frame::{fitting, text_width};
use super::scale::duration;

/// Rows of names above a plot; where they do not suffice, there are numbers and a key below.
const ROWS_MAX: usize = 3;
/// Numbers share one label unless there is room for twice their digits, each of which takes so much.
const DIGIT: f64 = 16.0;
/// More names than this are not listed one by one.
const KEY_MAX: usize = 48;

/// A name or a number, its row from the top, and its side of `x` (pixels).
pub(super) struct Label {
    pub(super) x: i32,
    pub(super) row: i32,
    pub(super) text: String,
    pub(super) anchor: HPos,
}

/// All of them.
pub(super) struct Labels {
    pub(super) rows: i32,
    pub(super) texts: Vec<Label>,
    /// Each line: where, from which row down, and what it says to whoever points at it.
    pub(super) lines: Vec<(f64, i32, String)>,
    /// What the numbers stand for.
    pub(super) key: Vec<String>,
}

/// Finds a place for every mark. `column` says where a time lies; names stay between `left` and `right`.
pub(super) fn place(marks: &[&Mark], column: impl Fn(f64) -> f64, left: i32, right: i32) -> Labels {
    let mut sorted: Vec<&Mark> = marks.to_vec();
    sorted.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    // From the left names go to the right of their lines; close to the end they need the other side, from there.
    named(sorted.iter().copied(), &column, left, right)
        .or_else(|| named(sorted.iter().rev().copied(), &column, left, right))
        .unwrap_or_else(|| numbered(&sorted, &column))
}

fn told(mark: &Mark) -> String {
    format!("{} at {}", mark.label, duration(mark.at_s))
}

/// Every name beside its line, in as few rows as possible; nothing where they do not fit. Rows are filled from
/// the top, so that the line of a mark finds no name of an earlier one in its way.
fn named<'a>(
    marks: impl Iterator<Item = &'a Mark>,
    column: impl Fn(f64) -> f64,
    left: i32,
    right: i32,
) -> Option<Labels> {
    let mut labels = Labels { rows: 0, texts: Vec::new(), lines: Vec::new(), key: Vec::new() };
    // What each row holds, as stretches of pixels.
    let mut taken: [Vec<(i32, i32)>; ROWS_MAX] = Default::default();
    for mark in marks {
        let at = column(mark.at_s);
        let x = at as i32;
        let text = fitting(&mark.label, f64::from(right - left) / 2.0);
        let width = text_width(&text);
        let is_free = |row: usize, (_, from, until): &(HPos, i32, i32)| {
            // Its own line goes down through the rows below; those of the rows above come down here.
            let is_clear = taken[row].iter().all(|(a, b)| until <= a || from >= b)
                && taken[row + 1..].iter().flatten().all(|(a, b)| !(*a..*b).contains(&x))
                && labels.lines.iter().all(|(line, upper, _): &(f64, i32, String)| {
                    *upper as usize >= row || *line < f64::from(*from) || *line > f64::from(*until)
                });
            is_clear && *from >= 0 && *until <= right + 8
        };
        let beside = [(HPos::Left, x + 2, x + 12 + width), (HPos::Right, x - 12 - width, x - 2)];
        let mut places = (0..ROWS_MAX).flat_map(|row| beside.map(|place| (row, place)));
        let (row, (anchor, from, until)) = places.find(|(row, place)| is_free(*row, place))?;
        taken[row].push((from, until));
        let x = if matches!(anchor, HPos::Left) { x + 4 } else { x - 4 };
        labels.rows = labels.rows.max(row as i32 + 1);
        labels.texts.push(Label { x, row: row as i32, text, anchor });
        labels.lines.push((at, row as i32, told(mark)));
    }
    Some(labels)
}

/// A number at every line, in one row; neighbours share one, such as `3–7`.
fn numbered(marks: &[&Mark], column: impl Fn(f64) -> f64) -> Labels {
    let mut labels = Labels { rows: 1, texts: Vec::new(), lines: Vec::new(), key: Vec::new() };
    let mut groups: Vec<(f64, usize, usize)> = Vec::new();
    for (at, mark) in marks.iter().enumerate() {
        let x = column(mark.at_s);
        labels.lines.push((x, 0, told(mark)));
        match groups.last_mut() {
            Some((first, _, last)) if x - *first < DIGIT * (1.0 + (at + 1).to_string().len() as f64) => {
                *last = at
            }
            _ => groups.push((x, at, at)),
        }
    }
    for (x, first, last) in groups {
        let text = match last - first {
            0 => format!("{}", first + 1),
            _ => format!("{}\u{2013}{}", first + 1, last + 1),
        };
        labels.texts.push(Label { x: x as i32, row: 0, text, anchor: HPos::Center });
    }
    labels.key = key(marks);
    labels
}

/// Each name once, with its numbers; the time only of what happened once, because the plot shows the others.
fn key(marks: &[&Mark]) -> Vec<String> {
    let mut names: Vec<(&str, Vec<usize>)> = Vec::new();
    for (at, mark) in marks.iter().enumerate() {
        match names.iter_mut().find(|(name, _)| *name == mark.label) {
            Some((_, numbers)) => numbers.push(at + 1),
            None => names.push((&mark.label, vec![at + 1])),
        }
    }
    let entry = |(name, numbers): &(&str, Vec<usize>)| match numbers[..] {
        [only] => format!("{only} {}", told(marks[only - 1])),
        _ => format!("{} {name}", ranges(numbers)),
    };
    let mut key: Vec<_> = names.iter().take(KEY_MAX).map(entry).collect();
    if names.len() > KEY_MAX {
        key.push(format!("and {} more", names.len() - KEY_MAX));
    }
    key
}

/// Ascending numbers, neighbours together: `1, 3–5`.
fn ranges(numbers: &[usize]) -> String {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => found.push((*number, *number)),
        }
    }
    let told = found.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}\u{2013}{last}"),
    });
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(times: &[f64]) -> Vec<Mark> {
        times.iter().map(|at| Mark { at_s: *at, label: "kill worker".into() }).collect()
    }

    fn placed(times: &[f64]) -> Labels {
        let marks = marks(times);
        place(&marks.iter().collect::<Vec<_>>(), |at| 40.0 + at * 5.0, 40, 560)
    }

    #[test]
    fn a_few_marks_have_their_names_and_none_lies_on_another() {
        for times in [&[10.0][..], &[10.0, 11.0], &[0.0, 50.0, 100.0], &[98.0, 99.0, 100.0]] {
            let labels = placed(times);
            assert_eq!(labels.texts.len(), times.len());
            assert!(labels.key.is_empty(), "{times:?}");
            let spans: Vec<_> = labels
                .texts
                .iter()
                .map(|label| {
                    let width = text_width(&label.text);
                    let from = if matches!(label.anchor, HPos::Left) { label.x } else { label.x - width };
                    (label.row, from, from + width)
                })
                .collect();
            for (at, a) in spans.iter().enumerate() {
                assert!(a.1 >= 0 && a.2 <= 560, "{times:?}: {a:?}");
                for b in &spans[at + 1..] {
                    assert!(a.0 != b.0 || a.2 <= b.1 || b.2 <= a.1, "{times:?}: {a:?} lies on {b:?}");
                }
            }
        }
    }

    #[test]
    fn many_marks_are_numbered_and_explained() {
        let labels = placed(&(0..30).map(|n| f64::from(n) * 3.0).collect::<Vec<_>>());
        assert_eq!((labels.rows, labels.lines.len()), (1, 30));
        assert_eq!(labels.key, ["1\u{2013}30 kill worker"]);
        assert!(labels.texts.len() < 30 && labels.texts.iter().any(|label| label.text.contains('\u{2013}')));
    }

    #[test]
    fn without_marks_there_is_no_row() {
        assert_eq!(placed(&[]).rows, 0);
    }

    #[test]
    fn hundreds_at_one_time_share_a_number() {
        let labels = placed(&[5.0; 300]);
        assert_eq!(labels.texts.len(), 1);
        assert_eq!(labels.texts[0].text, "1\u{2013}300");
        assert_eq!(labels.key, ["1\u{2013}300 kill worker"]);
    }

    #[test]
    fn numbers_do_not_touch_each_other() {
        let labels = placed(&(0..104).map(f64::from).collect::<Vec<_>>());
        for pair in labels.texts.windows(2) {
            let halves = (text_width(&pair[0].text) + text_width(&pair[1].text)) / 2;
            assert!(pair[1].x - pair[0].x > halves, "{} and {}", pair[0].text, pair[1].text);
        }
    }

    #[test]
    fn a_key_has_each_name_once() {
        let label =
            |n: u32| if n.is_multiple_of(3) { "cut".to_owned() } else { format!("kill worker {}", n.min(5)) };
        let marks: Vec<_> = (0..9).map(|n| Mark { at_s: f64::from(n), label: label(n) }).collect();
        let told = key(&marks.iter().collect::<Vec<_>>());
        let expected = [
            "1, 4, 7 cut",
            "2 kill worker 1 at 1s",
            "3 kill worker 2 at 2s",
            "5 kill worker 4 at 4s",
            "6, 8, 9 kill worker 5",
        ];
        assert_eq!(told, expected);
        let many: Vec<_> = (0..100).map(|n| Mark { at_s: f64::from(n), label: n.to_string() }).collect();
        assert_eq!(key(&many.iter().collect::<Vec<_>>()).last().map(String::as_str), Some("and 52 more"));
    }
}

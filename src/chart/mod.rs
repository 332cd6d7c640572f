//! Pictures of figures: plain data in, one SVG out.
//!
//! The shapes and axes are drawn by `plotters` onto a canvas of our own, which writes classes where others write
//! colours, so that the page around a picture decides how it looks and a dark page gets a dark picture. Nothing
//! here knows what the figures mean, and nothing is fetched: text is set by whoever shows the picture.

mod bands;
mod bars;
mod canvas;
mod frame;
mod lines;
mod marks;
mod scale;
#[cfg(test)]
mod tests;
mod thin;

use std::fmt::Write as _;

use serde::Serialize;

use self::frame::Frame;
pub use self::scale::{amount, duration};

/// What the classes of every picture look like: once in a page, inside a `style` element.
pub const STYLE: &str = include_str!("style.css");

/// Widths to draw at, in pixels. Text does not shrink with a picture this way: a page shows the one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// For a column of a desktop page: 560 pixels.
    Wide,
    /// For a telephone: 340 pixels.
    Narrow,
}

impl Width {
    fn px(self) -> i32 {
        match self {
            Self::Wide => 560,
            Self::Narrow => 340,
        }
    }
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// Of the vertical axis, such as "ms"; may be empty. "$", "%" and "s" are written the way people write them.
    pub unit: String,
    /// What is drawn.
    pub plot: Plot,
    /// Events on the horizontal axis, such as faults.
    pub marks: Vec<Mark>,
}

/// What is drawn. Times are seconds since the start of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Plot {
    /// Over time, joined by lines.
    Lines {
        /// At most eight.
        series: Vec<Series>,
    },
    /// Shares of a whole over time, one on top of the other. A limit among them is drawn as a line.
    Stack {
        /// From the bottom up; equal times.
        series: Vec<Series>,
    },
    /// A row for each thing that has states, such as a breaker.
    Bands {
        /// From the top down.
        rows: Vec<BandRow>,
    },
    /// One bar to a label.
    Bars {
        /// From the top down.
        bars: Vec<Bar>,
    },
}

/// A quantity over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// Seconds since the start, and the value. A value that is no number leaves a gap (`null` in JSON).
    pub points: Vec<(f64, f64)>,
    /// A bound, such as a cap, is drawn as one.
    pub is_limit: bool,
}

/// The states of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BandRow {
    /// Of what.
    pub name: String,
    /// In order, without overlap.
    pub bands: Vec<Band>,
}

/// One state that lasted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Band {
    /// Seconds since the start.
    pub from_s: f64,
    /// Seconds since the start.
    pub until_s: f64,
    /// Such as "open".
    pub state: String,
    /// How it is coloured.
    pub tone: Tone,
}

/// What a state means to whoever looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Fair,
    /// Not as it should be.
    Bad,
    /// Not known, or not running.
    Quiet,
}

/// A bar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// In the chart's unit.
    pub value: f64,
    /// The one that the others are compared with.
    pub is_reference: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mark {
    /// Seconds since the start.
    pub at_s: f64,
    /// In two or three words.
    pub label: String,
}

/// Draws a chart for a page that has [`STYLE`] in it. `id` begins the ids inside and must be the page's only one
/// of its name. Whatever the figures are, there is a picture: one without figures says so.
#[must_use]
pub fn svg(chart: &Chart, id: &str, width: Width) -> String {
    render(chart, id, width, &[], false)
}

/// As [`svg`], with names for instants of the horizontal axis, such as times of day: seconds since the start and
/// what stands there. Whoever gives them takes care that they have room.
#[must_use]
pub fn svg_dated(chart: &Chart, id: &str, width: Width, names: &[(f64, String)]) -> String {
    render(chart, id, width, names, false)
}

/// Draws a chart as a document of its own, with its title and style, light or dark as the reader has it.
#[must_use]
pub fn document(chart: &Chart) -> String {
    render(chart, "chart", Width::Wide, &[], true)
}

/// What stops `plotters`; the canvas itself cannot fail.
type Trouble = plotters::drawing::DrawingAreaErrorKind<std::convert::Infallible>;

fn render(chart: &Chart, id: &str, width: Width, names: &[(f64, String)], is_document: bool) -> String {
    let mut frame = Frame::new(chart, width, names, is_document);
    let drawn = match &chart.plot {
        Plot::Lines { series } => lines::draw_lines(&mut frame, series),
        Plot::Stack { series } => lines::draw_stack(&mut frame, series),
        Plot::Bands { rows } => bands::draw(&mut frame, rows),
        Plot::Bars { bars } => bars::draw(&mut frame, bars),
    };
    if let Err(trouble) = drawn {
        frame.say(&format!("This cannot be drawn: {trouble}"));
    }
    let (height, body, described) = frame.end();
    let id = escape(id);
    let wide = width.px();
    let mut out = String::with_capacity(body.len() + 1024);
    // A string takes every write.
    let head = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {wide} {height}\" role=\"img\" \
         aria-labelledby=\"{id}-t {id}-d\"{size}><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{desc}</desc>",
        size = if is_document { format!(" width=\"{wide}\" height=\"{height}\"") } else { String::new() },
        title = escape(&chart.title),
        desc = escape(&described),
    );
    debug_assert!(head.is_ok(), "a string takes every write");
    if is_document {
        out.push_str("<style>");
        out.push_str(STYLE);
        out.push_str("</style><rect class=\"paper\" width=\"100%\" height=\"100%\"/>");
    }
    out.push_str(&body);
    out.push_str("</svg>");
    out
}

/// Text that is safe between tags and in quoted attributes. Control characters, which XML forbids, become blanks.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push(' '),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

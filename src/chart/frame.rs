//! What pictures have in common: title, legend, axes, marks, and the room for each of them.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{PathElement, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, IntoFont as _, TextStyle};
use plotters_backend::BackendColor;

use super::canvas::{Canvas, Ink, UNITS};
use super::marks::{Labels, place};
use super::scale::{Axis, Unit, duration};
use super::thin::is_drawable;
use super::{Chart, Trouble, Width};

/// Room for a line of text, in pixels.
pub(super) const LINE: i32 = 17;
/// Room below a plot for the labels of its horizontal axis.
const BELOW: i32 = 22;
/// Room to the right of a plot, where half of the last label hangs over.
const RIGHT: i32 = 20;
/// No picture is higher; whatever has more rows than that is cut off and says so.
const HEIGHT_MAX: i32 = 6000;
/// Length of a sample in a legend.
const SAMPLE: i32 = 22;

/// Axes that can be drawn upon.
pub(super) type Plotted = ChartContext<'static, Canvas, Cartesian2d<Axis, Axis>>;

/// A picture that is being drawn, from the top down.
pub(super) struct Frame<'a> {
    chart: &'a Chart,
    canvas: Canvas,
    root: DrawingArea<Canvas, Shift>,
    width: i32,
    /// What is above this is taken.
    y: i32,
    described: Vec<String>,
    /// Names of instants on the horizontal axis; empty for spans since the start.
    names: &'a [(f64, String)],
}

/// What a plot looks like besides its axes.
pub(super) struct Room {
    pub(super) height: i32,
    /// Left of the plot; `None` for what the labels of the vertical axis need.
    pub(super) left: Option<i32>,
    pub(super) has_grid: bool,
}

impl<'a> Frame<'a> {
    pub(super) fn new(chart: &'a Chart, width: Width, names: &'a [(f64, String)], is_document: bool) -> Self {
        let canvas = Canvas::new(width.px(), HEIGHT_MAX);
        let root = canvas.clone().into_drawing_area();
        let mut frame = Self { chart, canvas, root, width: width.px(), y: 2, described: Vec::new(), names };
        if is_document {
            frame.y = LINE;
            let title = fitting(&chart.title, f64::from(frame.width - 2 * RIGHT) / 1.2);
            frame.text(&title, (4, frame.y), Ink::Strong, (HPos::Left, VPos::Center));
            frame.y += LINE;
        }
        frame
    }

    pub(super) fn width(&self) -> i32 {
        self.width
    }

    pub(super) fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// The whole picture, in units.
    pub(super) fn root(&self) -> &DrawingArea<Canvas, Shift> {
        &self.root
    }

    pub(super) fn unit(&self) -> &'a str {
        &self.chart.unit
    }

    /// Adds to what is read to those who do not see the picture.
    pub(super) fn describe(&mut self, sentence: String) {
        self.described.push(sentence);
    }

    /// A line of text in the place of a picture.
    pub(super) fn say(&mut self, text: &str) {
        self.text(text, (self.width / 2, self.y + 2 * LINE), Ink::Text, (HPos::Center, VPos::Center));
        self.y += 4 * LINE;
        self.described.push(text.to_owned());
    }

    /// Text at a place in pixels; trouble with a text is trouble with every text, which the axes report.
    pub(super) fn text(&self, text: &str, (x, y): (i32, i32), ink: Ink, (h_pos, v_pos): (HPos, VPos)) {
        let style = text_style(ink).pos(Pos::new(h_pos, v_pos));
        if let Err(trouble) = self.root.draw_text(text, &style, (x * UNITS, y * UNITS)) {
            tracing::debug!(%trouble, text, "a label is left out");
        }
    }

    /// Samples with their names, as many in a row as there is room.
    pub(super) fn legend(&mut self, entries: &[(Ink, String)]) -> Result<(), Trouble> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut x = 4;
        for (ink, name) in entries {
            let name = fitting(name, f64::from(self.width - SAMPLE - 16));
            let needed = SAMPLE + 6 + text_width(&name) + 16;
            if x > 4 && x + needed - 16 > self.width {
                x = 4;
                self.y += LINE;
            }
            self.sample(*ink, x, self.y + LINE / 2)?;
            self.text(&name, (x + SAMPLE + 6, self.y + LINE / 2), Ink::Text, (HPos::Left, VPos::Center));
            x += needed;
        }
        self.y += LINE + 4;
        Ok(())
    }

    fn sample(&self, ink: Ink, x: i32, y: i32) -> Result<(), Trouble> {
        let (from, until) = ((x * UNITS, (y - 5) * UNITS), ((x + SAMPLE) * UNITS, (y + 5) * UNITS));
        match ink {
            Ink::Line(_) | Ink::Limit => {
                let line = vec![(x * UNITS, y * UNITS), (until.0, y * UNITS)];
                self.root.draw(&PathElement::new(line, ink.color()))
            }
            ink => {
                self.root.draw(&Rectangle::new([from, until], ink.color().filled()))?;
                self.canvas.hatch_of(ink, from, until);
                // An area is known by its upper edge too.
                let Ink::Area(index) = ink else { return Ok(()) };
                let edge = vec![from, (until.0, from.1)];
                self.root.draw(&PathElement::new(edge, Ink::Line(index).color()))
            }
        }
    }

    /// Axes over time with the chart's marks, ready for what happened between them.
    pub(super) fn over_time(&mut self, times: (f64, f64), y: &Axis, room: Room) -> Result<Plotted, Trouble> {
        let marks: Vec<_> = self.chart.marks.iter().filter(|mark| is_drawable(mark.at_s)).collect();
        let from = marks.iter().map(|mark| mark.at_s).fold(times.0.min(0.0), f64::min);
        let until = marks.iter().map(|mark| mark.at_s).fold(times.1, f64::max);
        let x = Axis::of_time(from, until, if self.width > 400 { 7 } else { 4 }).with_names(self.names);
        let left = self.left(y, &room);
        let plot_width = f64::from(self.width - left - RIGHT);
        let column = |at: f64| f64::from(left) + (at - x.from) / (x.until - x.from) * plot_width;
        let labels = place(&marks, column, left, self.width);
        let top = self.y;
        self.y += labels.rows * LINE;
        let named = !self.chart.unit.is_empty() && Unit::of(&self.chart.unit) == Unit::Plain && room.has_grid;
        if named {
            let unit = fitting(&self.chart.unit, f64::from(self.width));
            self.text(&unit, (4, self.y + LINE / 2), Ink::Text, (HPos::Left, VPos::Center));
            self.y += LINE;
        }
        // The label of the highest tick is half above the plot.
        self.y += if room.has_grid { 8 } else { 0 };
        let bottom = self.y + room.height;
        self.draw_marks(&labels, top, bottom)?;
        let plotted = self.axes(&x, y, &room)?;
        self.key(&labels);
        self.described.push(format!("From {} to {}.", duration(x.from), duration(x.until)));
        for mark in &marks {
            self.described.push(format!("{} at {}.", mark.label, duration(mark.at_s)));
        }
        Ok(plotted)
    }

    fn left(&self, y: &Axis, room: &Room) -> i32 {
        let labels = y.ticks.iter().map(|tick| text_width(&y.label(*tick)));
        room.left.unwrap_or_else(|| labels.max().unwrap_or(0) + 12)
    }

    fn draw_marks(&self, labels: &Labels, top: i32, bottom: i32) -> Result<(), Trouble> {
        for (x, row, title) in &labels.lines {
            let x = (x * f64::from(UNITS)) as i32;
            let from = (x, (top + row * LINE + LINE - 3) * UNITS);
            self.canvas.open(title);
            self.root.draw(&PathElement::new(vec![from, (x, bottom * UNITS)], Ink::Mark.color()))?;
            self.canvas.close();
        }
        for label in &labels.texts {
            let at = (label.x, top + label.row * LINE + LINE / 2);
            self.text(&label.text, at, Ink::MarkText, (label.anchor, VPos::Center));
        }
        Ok(())
    }

    /// What the numbers above the plot stand for.
    fn key(&mut self, labels: &Labels) {
        let mut x = 4;
        self.y += if labels.key.is_empty() { 0 } else { 5 };
        for text in &labels.key {
            let text = fitting(text, f64::from(self.width - 8));
            let needed = text_width(&text) + 14;
            if x > 4 && x + needed - 14 > self.width {
                x = 4;
                self.y += LINE;
            }
            self.text(&text, (x, self.y + LINE / 2), Ink::MarkText, (HPos::Left, VPos::Center));
            x += needed;
        }
        if !labels.key.is_empty() {
            self.y += LINE + 2;
        }
    }

    /// Axes as they are, below what has been drawn so far.
    pub(super) fn axes(&mut self, x: &Axis, y: &Axis, room: &Room) -> Result<Plotted, Trouble> {
        let left = self.left(y, room);
        let height = room.height + BELOW;
        let area = self.root.clone().shrink((0, self.y * UNITS), (self.width * UNITS, height * UNITS));
        let mut plotted = ChartBuilder::on(&area)
            .x_label_area_size(BELOW * UNITS)
            .y_label_area_size(left * UNITS)
            .margin_right(RIGHT * UNITS)
            .build_cartesian_2d(x.clone(), y.clone())?;
        let mut mesh = plotted.configure_mesh();
        mesh.axis_style(Ink::Axis.color())
            .bold_line_style(Ink::Grid.color())
            .light_line_style(Ink::Grid.color())
            .label_style(text_style(Ink::Text))
            .set_all_tick_mark_size(4 * UNITS);
        // Where rows have names there is nothing to count upwards.
        if room.has_grid {
            mesh.disable_x_mesh();
        } else {
            mesh.disable_y_mesh().disable_y_axis();
        }
        mesh.draw()?;
        self.y += height;
        Ok(plotted)
    }

    /// The height, the elements, and the description.
    pub(super) fn end(self) -> (i32, String, String) {
        let height = (self.y + 4).min(HEIGHT_MAX);
        // The canvas must be the last to hold the elements.
        drop(self.root);
        (height, self.canvas.take(), self.described.join(" "))
    }
}

fn text_style(ink: Ink) -> TextStyle<'static> {
    // The size is for plotters' own layout; what is shown is the style's.
    let color: BackendColor = ink.color().to_backend_color();
    TextStyle { color, ..TextStyle::from(("sans-serif", 12 * UNITS).into_font()) }
}

/// About how wide a text is in pixels, at the size of every label. Generous, because readers' fonts differ.
pub(super) fn text_width(text: &str) -> i32 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 3.4,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 10.5,
        'A'..='Z' => 8.2,
        c if c.is_ascii() => 6.8,
        _ => 12.5,
    };
    text.chars().map(of).sum::<f64>().ceil() as i32
}

/// The text, or as much of it as fits into so many pixels, and an ellipsis.
pub(super) fn fitting(text: &str, width: f64) -> String {
    if f64::from(text_width(text)) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        if f64::from(text_width(&short)) > width - 13.0 {
            short.pop();
            break;
        }
    }
    format!("{}\u{2026}", short.trim_end())
}

//! What `plotters` draws on: SVG elements with classes where others have colours.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::rc::Rc;

use plotters::style::RGBColor;
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};

use super::escape;

/// Units of the canvas in a pixel: `plotters` counts in whole units, and a line should not have steps.
pub(super) const UNITS: i32 = 10;

/// What something is. `plotters` carries colours, so the number of an ink travels as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Grid,
    Axis,
    Text,
    /// Text that is meant to be read first.
    Strong,
    /// Text on a filled shape.
    Inside,
    /// The line of a series.
    Line(u8),
    /// The area of a series.
    Area(u8),
    Limit,
    LimitText,
    Mark,
    MarkText,
    /// A band by its tone.
    Band(u8),
    Bar,
    Reference,
}

impl Ink {
    /// The colour by which the canvas knows it again.
    pub(super) fn color(self) -> RGBColor {
        let (kind, index) = match self {
            Self::Grid => (0, 0),
            Self::Axis => (1, 0),
            Self::Text => (2, 0),
            Self::Strong => (3, 0),
            Self::Inside => (4, 0),
            Self::Line(index) => (5, index % 8),
            Self::Area(index) => (6, index % 8),
            Self::Limit => (7, 0),
            Self::LimitText => (8, 0),
            Self::Mark => (9, 0),
            Self::MarkText => (10, 0),
            Self::Band(tone) => (11, tone % 4),
            Self::Bar => (12, 0),
            Self::Reference => (13, 0),
        };
        RGBColor(kind, index, 0)
    }
}

/// The classes of a colour that [`Ink::color`] made.
fn class(color: BackendColor) -> String {
    let (kind, index, _) = color.rgb;
    match kind {
        0 => "grid".into(),
        1 => "axis".into(),
        3 => "text strong".into(),
        4 => "text inside".into(),
        5 => format!("line s{index}"),
        6 => format!("area s{index}"),
        7 => "limit".into(),
        8 => "text limit-text".into(),
        9 => "mark".into(),
        10 => "text mark-text".into(),
        11 => format!("band {}", ["good", "fair", "bad", "quiet"][usize::from(index % 4)]),
        12 => "bar".into(),
        13 => "bar reference".into(),
        _ => "text".into(),
    }
}

/// The elements so far. `plotters` owns a canvas while it draws, so the text is shared with whoever made it.
#[derive(Clone)]
pub(super) struct Canvas {
    out: Rc<RefCell<String>>,
    size: (u32, u32),
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl Canvas {
    /// An empty one, in pixels.
    pub(super) fn new(width: i32, height: i32) -> Self {
        let units = |px: i32| u32::try_from(px * UNITS).unwrap_or(0);
        Self { out: Rc::default(), size: (units(width), units(height)) }
    }

    /// What has been drawn.
    pub(super) fn take(&self) -> String {
        self.out.take()
    }

    /// Opens a group that shows `title` to whoever points at it.
    pub(super) fn open(&self, title: &str) {
        self.put(format_args!("<g><title>{}</title>", escape(title)));
    }

    /// Closes the group.
    pub(super) fn close(&self) {
        self.put(format_args!("</g>"));
    }

    /// What tells a filled shape from others without its colour; in units.
    pub(super) fn hatch_of(&self, ink: Ink, from: BackendCoord, until: BackendCoord) {
        match ink {
            Ink::Band(1) => self.hatch(from, until, "fair", 10),
            Ink::Band(2) => self.hatch(from, until, "bad", 5),
            Ink::Reference => self.hatch(from, until, "reference", 7),
            _ => {}
        }
    }

    /// A rectangle with lines across it, for those who do not see colours; in units.
    fn hatch(&self, (x0, y0): BackendCoord, (x1, y1): BackendCoord, class: &str, every_px: i32) {
        let (width, height) = (x1 - x0, y1 - y0);
        let mut path = String::new();
        // Lines that rise to the right, cut off where the rectangle ends.
        let mut at = every_px * UNITS;
        while at < width + height && path.len() < 20_000 {
            let (from, until) = (at.min(height), (at - width).max(0));
            let written = write!(
                path,
                "M{} {}L{} {}",
                Px(x0 + at - from),
                Px(y1 - from),
                Px(x0 + at - until),
                Px(y1 - until)
            );
            debug_assert!(written.is_ok(), "a string takes every write");
            at += every_px * UNITS;
        }
        if !path.is_empty() {
            self.put(format_args!("<path class=\"hatch {class}\" d=\"{path}\"/>"));
        }
    }

    fn put(&self, text: std::fmt::Arguments<'_>) {
        let written = self.out.borrow_mut().write_fmt(text);
        debug_assert!(written.is_ok(), "a string takes every write");
    }
}

/// Units as pixels, with one decimal where there is one.
struct Px(i32);

impl std::fmt::Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, tenth) = (self.0.unsigned_abs() / 10, self.0.unsigned_abs() % 10);
        if tenth == 0 { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{tenth}") }
    }
}

fn path(points: impl IntoIterator<Item = BackendCoord>) -> String {
    let mut out = String::new();
    for (at, (x, y)) in points.into_iter().enumerate() {
        let written = write!(out, "{}{} {}", if at == 0 { 'M' } else { 'L' }, Px(x), Px(y));
        debug_assert!(written.is_ok(), "a string takes every write");
    }
    out
}

impl DrawingBackend for Canvas {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn {
        self.draw_rect(point, (point.0 + 1, point.1 + 1), &color, true)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        (x0, y0): BackendCoord,
        (x1, y1): BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let hollow = if fill { "" } else { " hollow" };
        let (x, y) = (Px(x0.min(x1)), Px(y0.min(y1)));
        let (width, height) = (Px((x1 - x0).abs()), Px((y1 - y0).abs()));
        self.put(format_args!(
            "<rect class=\"{}{hollow}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>",
            class(style.color())
        ));
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        points: I,
        style: &S,
    ) -> Drawn {
        self.put(format_args!("<path class=\"{}\" d=\"{}\"/>", class(style.color()), path(points)));
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        (x, y): BackendCoord,
        radius: u32,
        style: &S,
        _fill: bool,
    ) -> Drawn {
        let radius = Px(i32::try_from(radius).unwrap_or(i32::MAX));
        let class = class(style.color());
        self.put(format_args!(
            "<circle class=\"{class} dot\" cx=\"{}\" cy=\"{}\" r=\"{radius}\"/>",
            Px(x),
            Px(y)
        ));
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        points: I,
        style: &S,
    ) -> Drawn {
        self.put(format_args!("<path class=\"{}\" d=\"{}Z\"/>", class(style.color()), path(points)));
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        let anchor = match style.anchor().h_pos {
            HPos::Left => "",
            HPos::Right => " text-anchor=\"end\"",
            HPos::Center => " text-anchor=\"middle\"",
        };
        // Not every reader knows baselines by name; a part of the letters' height does it everywhere.
        let shift = match style.anchor().v_pos {
            VPos::Top => " dy=\".8em\"",
            VPos::Center => " dy=\".35em\"",
            VPos::Bottom => "",
        };
        let class = class(style.color());
        let text = escape(text);
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{}\" y=\"{}\"{anchor}{shift}>{text}</text>",
            Px(x),
            Px(y)
        ));
        Ok(())
    }
}

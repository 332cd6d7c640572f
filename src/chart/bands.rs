//! States over time, a row for each thing that has them.

use plotters::element::Rectangle;
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Ink, UNITS};
use super::frame::{Frame, LINE, Room, fitting, text_width};
use super::scale::{Axis, Unit, duration};
use super::thin::is_drawable;
use super::{Band, BandRow, Tone, Trouble};

/// More rows than this are counted instead of drawn.
const ROWS_MAX: usize = 64;
const ROW: i32 = 28;
const BAR: i32 = 18;

pub(super) fn tone_ink(tone: Tone) -> Ink {
    Ink::Band(match tone {
        Tone::Good => 0,
        Tone::Fair => 1,
        Tone::Bad => 2,
        Tone::Quiet => 3,
    })
}

/// A row for each thing.
pub(super) fn draw(frame: &mut Frame<'_>, rows: &[BandRow]) -> Result<(), Trouble> {
    let shown = &rows[..rows.len().min(ROWS_MAX)];
    let is_band =
        |band: &&Band| is_drawable(band.from_s) && is_drawable(band.until_s) && band.until_s >= band.from_s;
    let bands = || shown.iter().flat_map(|row| row.bands.iter().filter(is_band));
    if bands().next().is_none() {
        frame.say("No states for this picture.");
        return Ok(());
    }
    let from = bands().map(|band| band.from_s).fold(0.0, f64::min);
    let until = bands().map(|band| band.until_s).fold(from, f64::max);
    frame.legend(&states(bands()))?;
    // Names stand beside their rows where there is room, else above them.
    let widest = shown.iter().map(|row| text_width(&row.name)).max().unwrap_or(0);
    let is_beside = widest <= frame.width() * 2 / 5;
    let (left, row_height) = if is_beside { (widest + 14, ROW) } else { (18, ROW + LINE) };
    let height = row_height * shown.len() as i32;
    let axis = Axis::rows(shown.len());
    let mut plotted =
        frame.over_time((from, until), &axis, Room { height, left: Some(left), has_grid: false })?;
    for (at, row) in shown.iter().enumerate() {
        let middle = axis.until - at as f64 - 0.5;
        let (_, y) = plotted.backend_coord(&(from, middle));
        let y = y / UNITS + if is_beside { 0 } else { LINE / 2 };
        if is_beside {
            frame.text(&row.name, (left - 8, y), Ink::Text, (HPos::Right, VPos::Center));
        } else {
            let name = fitting(&row.name, f64::from(frame.width() - 8));
            frame.text(&name, (4, y - BAR / 2 - 3), Ink::Inside, (HPos::Left, VPos::Bottom));
        }
        for band in row.bands.iter().filter(is_band) {
            draw_band(frame, &mut plotted, band, y)?;
        }
        let told = row.bands.iter().filter(is_band).take(20);
        let told = told.map(|band| format!("{} until {}", band.state, duration(band.until_s)));
        frame.describe(format!("{}: {}.", row.name, told.collect::<Vec<_>>().join(", ")));
    }
    if rows.len() > ROWS_MAX {
        frame.say(&format!("and {} more", rows.len() - ROWS_MAX));
    }
    Ok(())
}

/// Every state once, in the order of their meaning.
fn states<'a>(bands: impl Iterator<Item = &'a Band>) -> Vec<(Ink, String)> {
    let mut found: Vec<(Tone, &str)> = Vec::new();
    for band in bands {
        if found.len() < 8 && !found.iter().any(|(tone, state)| (*tone, *state) == (band.tone, &band.state)) {
            found.push((band.tone, &band.state));
        }
    }
    let order = |tone: Tone| [Tone::Good, Tone::Fair, Tone::Bad, Tone::Quiet].iter().position(|t| *t == tone);
    found.sort_by_key(|(tone, _)| order(*tone));
    found.into_iter().map(|(tone, state)| (tone_ink(tone), state.to_owned())).collect()
}

fn draw_band(
    frame: &Frame<'_>,
    plotted: &mut super::frame::Plotted,
    band: &Band,
    y: i32,
) -> Result<(), Trouble> {
    let ink = tone_ink(band.tone);
    let column = |at: f64| plotted.backend_coord(&(at, 0.0)).0;
    let (from, until) = (column(band.from_s), column(band.until_s));
    // A moment of trouble must be seen; a moment of calm may be too short to be.
    let least = if band.tone == Tone::Bad { 2 * UNITS } else { UNITS / 2 };
    let until = until.max(from + least);
    let corners = [(from, (y - BAR / 2) * UNITS), (until, (y + BAR / 2) * UNITS)];
    let canvas = frame.canvas();
    let lasted = duration(band.until_s - band.from_s);
    canvas.open(&format!("{} for {lasted}, from {}", band.state, duration(band.from_s)));
    frame.root().draw(&Rectangle::new(corners, ink.color().filled()))?;
    canvas.hatch_of(ink, corners[0], corners[1]);
    if text_width(&band.state) + 8 <= (until - from) / UNITS {
        let middle = (from + until) / 2 / UNITS;
        frame.text(&band.state, (middle, y), Ink::Inside, (HPos::Center, VPos::Center));
    }
    canvas.close();
    Ok(())
}

impl Axis {
    /// One unit of height for each row, without ticks.
    pub(super) fn rows(count: usize) -> Self {
        let mut axis = Self::of_amounts(0.0, 1.0, 1, Unit::Plain);
        axis.until = count.max(1) as f64;
        axis.ticks = Vec::new();
        axis
    }
}

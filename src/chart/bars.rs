//! Amounts beside each other, a bar for each.

use plotters::element::Rectangle;
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Ink, UNITS};
use super::frame::{Frame, LINE, Room, fitting, text_width};
use super::scale::{Axis, Unit, amount};
use super::thin::is_drawable;
use super::{Bar, Trouble};

/// More bars than this are counted instead of drawn.
const BARS_MAX: usize = 64;
const ROW: i32 = 28;
const THICK: i32 = 16;

/// One bar to a label, with its value at the end.
pub(super) fn draw(frame: &mut Frame<'_>, bars: &[Bar]) -> Result<(), Trouble> {
    if bars.is_empty() {
        frame.say("No figures for this picture.");
        return Ok(());
    }
    let shown = &bars[..bars.len().min(BARS_MAX)];
    let unit = frame.unit();
    let values = || shown.iter().map(|bar| bar.value).filter(|value| is_drawable(*value));
    let (least, most) = (values().fold(0.0, f64::min), values().fold(0.0, f64::max));
    if shown.iter().any(|bar| bar.is_reference) && shown.iter().any(|bar| !bar.is_reference) {
        frame.legend(&[(Ink::Reference, "what the others are compared with".to_owned())])?;
    }
    let widest = shown.iter().map(|bar| text_width(&bar.label)).max().unwrap_or(0);
    let is_beside = widest <= frame.width() * 2 / 5;
    let (left, row) = if is_beside { (widest + 14, ROW) } else { (26, ROW + LINE) };
    // Behind the longest bar there is room for its value, which is in bold.
    let valued = shown.iter().map(|bar| text_width(&amount(bar.value, unit))).max().unwrap_or(0);
    let plot = f64::from((frame.width() - left - 20).max(40));
    let taken = (f64::from(valued) * 1.15 + 10.0).min(plot * 0.6) / plot;
    let ticks = if frame.width() > 400 { 5 } else { 3 };
    let behind = |from: f64| (most - taken * from) / (1.0 - taken);
    let rough = Axis::of_amounts(least, most, ticks, Unit::of(unit));
    let mut x = Axis::of_amounts(least, behind(rough.from), ticks, Unit::of(unit));
    // The axis ends where the room does, not at the next tick.
    if most > least {
        x.until = behind(x.from);
        x.ticks.retain(|tick| *tick <= x.until);
    }
    let y = Axis::rows(shown.len());
    let height = row * shown.len() as i32;
    let plotted = frame.axes(&x, &y, &Room { height, left: Some(left), has_grid: false })?;
    for (at, bar) in shown.iter().enumerate() {
        let (zero, middle) = plotted.backend_coord(&(0.0, y.until - at as f64 - 0.5));
        let middle = middle / UNITS + if is_beside { 0 } else { LINE / 2 };
        let end = if is_drawable(bar.value) { plotted.backend_coord(&(bar.value, 0.0)).0 } else { zero };
        draw_bar(frame, bar, (zero, end), middle)?;
        if is_beside {
            frame.text(&bar.label, (left - 8, middle), Ink::Text, (HPos::Right, VPos::Center));
        } else {
            let label = fitting(&bar.label, f64::from(frame.width() - 8));
            frame.text(&label, (4, middle - THICK / 2 - 3), Ink::Text, (HPos::Left, VPos::Bottom));
        }
        frame.describe(format!("{}: {}.", bar.label, amount(bar.value, unit)));
    }
    if bars.len() > BARS_MAX {
        frame.say(&format!("and {} more", bars.len() - BARS_MAX));
    }
    Ok(())
}

fn draw_bar(frame: &Frame<'_>, bar: &Bar, (zero, end): (i32, i32), y: i32) -> Result<(), Trouble> {
    let ink = if bar.is_reference { Ink::Reference } else { Ink::Bar };
    let value = amount(bar.value, frame.unit());
    let corners = [(zero.min(end), (y - THICK / 2) * UNITS), (zero.max(end), (y + THICK / 2) * UNITS)];
    frame.canvas().open(&format!("{}: {value}", bar.label));
    if end != zero {
        frame.root().draw(&Rectangle::new(corners, ink.color().filled()))?;
        frame.canvas().hatch_of(ink, corners[0], corners[1]);
    }
    frame.canvas().close();
    let at = (zero.max(end) / UNITS + 6, y);
    frame.text(&value, at, Ink::Strong, (HPos::Left, VPos::Center));
    Ok(())
}

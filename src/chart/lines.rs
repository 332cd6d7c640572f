//! Quantities over time: as lines, or stacked.

use plotters::element::{Circle, PathElement, Polygon};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Ink, UNITS};
use super::frame::{Frame, Plotted, Room, text_width};
use super::scale::{Axis, Unit, amount};
use super::thin::{is_drawable, kept, stretches};
use super::{Series, Trouble};

/// A limit so many times as high as everything below it is told, not drawn: it would press the rest flat.
const LIMIT_AWAY: f64 = 4.0;
const NO_FIGURES: &str = "No figures for this picture.";

/// A quantity's stretches between gaps, ready to be drawn.
struct Drawn<'a> {
    series: &'a Series,
    ink: Ink,
    stretches: Vec<Vec<(f64, f64)>>,
}

impl<'a> Drawn<'a> {
    fn of(series: &'a [Series], width: i32) -> Vec<Self> {
        let mut index = 0;
        let mut of_one = |series: &'a Series| {
            let ink = if series.is_limit { Ink::Limit } else { Ink::Line(index) };
            index = if series.is_limit { index } else { index.wrapping_add(1) };
            let thinned = |stretch: Vec<(f64, f64)>| {
                let (times, values): (Vec<f64>, Vec<f64>) = stretch.iter().copied().unzip();
                kept(&times, &values, width as usize).into_iter().map(|at| stretch[at]).collect()
            };
            Self { series, ink, stretches: stretches(&series.points).into_iter().map(thinned).collect() }
        };
        series.iter().map(&mut of_one).collect()
    }

    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.stretches.iter().flatten()
    }
}

/// The least and the greatest; `None` of nothing.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |found, value| match found {
        None => Some((value, value)),
        Some((least, most)) => Some((f64::min(least, value), f64::max(most, value))),
    })
}

/// From when to when figures are told, gaps at either end too: what is missing there is missing in the run. `None`
/// where there is nothing but gaps.
fn times(series: &[Series], is_any: bool) -> Option<(f64, f64)> {
    let told = series.iter().flat_map(|series| &series.points).map(|point| point.0);
    bounds(told.filter(|at| is_drawable(*at))).filter(|_| is_any)
}

/// The vertical axis for figures within `bounds` and those of the limits that are near enough.
fn amounts(frame: &Frame<'_>, figures: Option<(f64, f64)>, limits: &[Drawn<'_>]) -> Axis {
    let (mut least, mut most) = figures.unwrap_or((0.0, 0.0));
    let near = if most > 0.0 { most * LIMIT_AWAY } else { f64::INFINITY };
    for (_, limit) in limits.iter().flat_map(Drawn::points) {
        if *limit <= near {
            (least, most) = (least.min(*limit), most.max(*limit));
        }
    }
    Axis::of_amounts(least, most, 4, Unit::of(frame.unit()))
}

/// What the legend says of a limit: where it is, if it is too far away to be drawn.
fn limit_name(frame: &Frame<'_>, limit: &Drawn<'_>, axis: &Axis) -> String {
    let name = &limit.series.name;
    match bounds(limit.points().map(|point| point.1)) {
        Some((least, _)) if least > axis.until => {
            format!("{name}: {}, far above", amount(least, frame.unit()))
        }
        _ => name.clone(),
    }
}

fn height(frame: &Frame<'_>) -> Room {
    Room { height: if frame.width() > 400 { 190 } else { 170 }, left: None, has_grid: true }
}

/// Lines over time.
pub(super) fn draw_lines(frame: &mut Frame<'_>, series: &[Series]) -> Result<(), Trouble> {
    let (limits, quantities): (Vec<_>, Vec<_>) =
        Drawn::of(series, frame.width()).into_iter().partition(|drawn| drawn.series.is_limit);
    let all = || quantities.iter().chain(&limits);
    let Some((from, until)) = times(series, all().flat_map(Drawn::points).next().is_some()) else {
        frame.say(NO_FIGURES);
        return Ok(());
    };
    let axis =
        amounts(frame, bounds(quantities.iter().flat_map(Drawn::points).map(|point| point.1)), &limits);
    let mut entries: Vec<_> = quantities.iter().map(|drawn| (drawn.ink, drawn.series.name.clone())).collect();
    entries.extend(limits.iter().map(|limit| (Ink::Limit, limit_name(frame, limit, &axis))));
    frame.legend(&entries)?;
    let room = height(frame);
    let mut plotted = frame.over_time((from, until), &axis, room)?;
    for drawn in &quantities {
        tell(frame, &drawn.series.name, drawn.points().map(|point| point.1));
        draw_quantity(&mut plotted, drawn)?;
    }
    draw_limits(frame, &mut plotted, &limits, &axis)
}

fn tell(frame: &mut Frame<'_>, name: &str, values: impl Iterator<Item = f64>) {
    let unit = frame.unit();
    frame.describe(match bounds(values) {
        Some((least, most)) => format!("{name}: between {} and {}.", amount(least, unit), amount(most, unit)),
        None => format!("{name}: no figures."),
    });
}

fn draw_quantity(plotted: &mut Plotted, drawn: &Drawn<'_>) -> Result<(), Trouble> {
    for stretch in &drawn.stretches {
        match stretch[..] {
            // A line of one point would not be seen.
            [only] => {
                let dot = Circle::new(only, 3 * UNITS, drawn.ink.color().filled());
                plotted.draw_series([dot])?;
            }
            _ => {
                plotted.draw_series([PathElement::new(stretch.clone(), drawn.ink.color())])?;
            }
        }
    }
    Ok(())
}

fn draw_limits(
    frame: &Frame<'_>,
    plotted: &mut Plotted,
    limits: &[Drawn<'_>],
    axis: &Axis,
) -> Result<(), Trouble> {
    let x_range = plotted.x_range();
    for limit in limits {
        for stretch in &limit.stretches {
            let inside = |value: f64| (axis.from..=axis.until).contains(&value);
            let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
            if !stretch.iter().all(|point| inside(point.1)) {
                continue;
            }
            // A bound that was told once holds all the time.
            let line = if stretch.len() == 1 {
                vec![(x_range.start, first.1), (x_range.end, first.1)]
            } else {
                stretch.clone()
            };
            let end = line.last().copied().unwrap_or(*last);
            plotted.draw_series([PathElement::new(line, Ink::Limit.color())])?;
            let (x, y) = plotted.backend_coord(&end);
            let at = (x / UNITS, y / UNITS - 4);
            let name = super::frame::fitting(&limit.series.name, 160.0);
            frame.text(&name, at, Ink::LimitText, (HPos::Right, VPos::Bottom));
        }
    }
    Ok(())
}

/// Shares over time, one on top of the other, and limits as lines.
pub(super) fn draw_stack(frame: &mut Frame<'_>, series: &[Series]) -> Result<(), Trouble> {
    let limits: Vec<_> =
        Drawn::of(series, frame.width()).into_iter().filter(|drawn| drawn.series.is_limit).collect();
    let shares: Vec<&Series> = series.iter().filter(|series| !series.is_limit).collect();
    let stretches = stacked(&shares, frame.width());
    let is_any = stretches.iter().any(|stretch| !stretch.is_empty())
        || limits.iter().flat_map(Drawn::points).next().is_some();
    let Some((from, until)) = times(series, is_any) else {
        frame.say(NO_FIGURES);
        return Ok(());
    };
    let axis =
        amounts(frame, bounds(stretches.iter().flatten().flat_map(|level| level.tops.clone())), &limits);
    // The legend reads like the picture: what is on top comes first.
    let inked = shares.iter().enumerate().map(|(at, share)| (Ink::Area(at as u8), share.name.clone()));
    let mut entries: Vec<_> = inked.collect();
    entries.reverse();
    entries.extend(limits.iter().map(|limit| (Ink::Limit, limit_name(frame, limit, &axis))));
    frame.legend(&entries)?;
    let room = height(frame);
    let mut plotted = frame.over_time((from, until), &axis, room)?;
    for (at, share) in shares.iter().enumerate() {
        tell(
            frame,
            &share.name,
            share.points.iter().map(|point| point.1).filter(|value| is_drawable(*value)),
        );
        frame.canvas().open(&share.name);
        for stretch in &stretches {
            draw_layer(&mut plotted, stretch, at)?;
        }
        frame.canvas().close();
    }
    for (at, share) in shares.iter().enumerate() {
        name_layer(frame, &plotted, &stretches, at, &share.name);
    }
    draw_limits(frame, &mut plotted, &limits, &axis)
}

/// A time, and the upper edge of every layer then.
#[derive(Debug, Clone)]
struct Level {
    at: f64,
    tops: Vec<f64>,
}

impl Level {
    fn bottom(&self, layer: usize) -> f64 {
        layer.checked_sub(1).map_or(0.0, |below| self.tops[below])
    }
}

/// The stretches in which every share is known. Times that only some have are left to those that have them.
fn stacked(shares: &[&Series], width: i32) -> Vec<Vec<Level>> {
    let Some(longest) = shares.iter().max_by_key(|share| share.points.len()) else { return Vec::new() };
    let mut stretches = vec![Vec::new()];
    for (n, (at, _)) in longest.points.iter().enumerate().filter(|(_, point)| is_drawable(point.0)) {
        let value = |share: &&Series| match share.points.get(n) {
            Some((same, value)) if same == at => Some(*value),
            // Shares that came later or ended earlier are nothing outside of their time.
            _ => share.points.iter().find(|point| point.0 == *at).map(|point| point.1).or(Some(0.0)),
        };
        let values: Vec<f64> = shares.iter().filter_map(value).collect();
        let sums = values.iter().scan(0.0, |sum, value| {
            *sum += value.max(0.0);
            Some(*sum)
        });
        let tops: Vec<f64> = sums.collect();
        if values.iter().all(|value| is_drawable(*value)) && tops.iter().all(|top| is_drawable(*top)) {
            stretches.last_mut().unwrap_or(&mut Vec::new()).push(Level { at: *at, tops });
        } else {
            stretches.push(Vec::new());
        }
    }
    let thinned = |stretch: Vec<Level>| {
        let times: Vec<f64> = stretch.iter().map(|level| level.at).collect();
        let totals: Vec<f64> =
            stretch.iter().map(|level| level.tops.last().copied().unwrap_or(0.0)).collect();
        kept(&times, &totals, width as usize / 2).into_iter().map(|at| stretch[at].clone()).collect()
    };
    stretches.into_iter().filter(|stretch| !stretch.is_empty()).map(thinned).collect()
}

fn draw_layer(plotted: &mut Plotted, stretch: &[Level], layer: usize) -> Result<(), Trouble> {
    // A single moment is widened to be seen at all.
    let reach = plotted.x_range();
    let widened = (reach.end - reach.start) / 200.0;
    let edges: Vec<(f64, f64, f64)> = match stretch {
        [only] => [(only.at - widened).max(reach.start), (only.at + widened).min(reach.end)]
            .map(|at| (at, only.bottom(layer), only.tops[layer]))
            .to_vec(),
        _ => stretch.iter().map(|level| (level.at, level.bottom(layer), level.tops[layer])).collect(),
    };
    if edges.iter().all(|(_, bottom, top)| top <= bottom) {
        return Ok(());
    }
    let top: Vec<_> = edges.iter().map(|(at, _, top)| (*at, *top)).collect();
    let mut outline = top.clone();
    outline.extend(edges.iter().rev().map(|(at, bottom, _)| (*at, *bottom)));
    plotted.draw_series([Polygon::new(outline, Ink::Area(layer as u8).color().filled())])?;
    plotted.draw_series([PathElement::new(top, Ink::Line(layer as u8).color())])?;
    Ok(())
}

/// Writes a layer's name into it, where it is thickest, if it fits there.
fn name_layer(frame: &Frame<'_>, plotted: &Plotted, stretches: &[Vec<Level>], layer: usize, name: &str) {
    let half = text_width(name) / 2 + 2;
    let edges = |level: &Level| {
        let (x, top) = plotted.backend_coord(&(level.at, level.tops[layer]));
        let (_, bottom) = plotted.backend_coord(&(level.at, level.bottom(layer)));
        (x / UNITS, top / UNITS, bottom / UNITS)
    };
    let mut best: Option<(i32, i32, i32)> = None;
    for stretch in stretches {
        let pixels: Vec<_> = stretch.iter().map(edges).collect();
        let (Some(first), Some(last)) = (pixels.first(), pixels.last()) else { continue };
        for at in (first.0 + half..=last.0 - half).step_by(8) {
            let near = pixels.iter().filter(|(x, _, _)| (at - half - 4..=at + half + 4).contains(x));
            // The room that is free over the whole length of the name.
            let room = near.fold(None, |room: Option<(i32, i32)>, (_, top, bottom)| {
                Some(room.map_or((*top, *bottom), |(t, b)| (t.max(*top), b.min(*bottom))))
            });
            if let Some((top, bottom)) = room
                && bottom - top >= 16
                && best.is_none_or(|(_, t, b)| bottom - top > b - t)
            {
                best = Some((at, top, bottom));
            }
        }
    }
    if let Some((x, top, bottom)) = best {
        frame.text(name, (x, (top + bottom) / 2), Ink::Inside, (HPos::Center, VPos::Center));
    }
}

//! The report as one page: nothing is fetched, nothing has to run, and it can be read on a telephone, in the
//! dark and on paper.

use askama::Template;
use outlay::chart::{self, Width};

use super::{Chart, Report};

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    verdict: String,
    /// Of the verdict: `held`, `broken` or `none`.
    class: &'static str,
    pictures: Vec<Picture<'a>>,
    style: &'static str,
    chart_style: &'static str,
    made_by: &'static str,
}

/// A chart, drawn for both widths; the page shows the one that fits.
struct Picture<'a> {
    chart: &'a Chart,
    wide: String,
    narrow: String,
}

impl Report {
    /// One self-contained HTML document.
    ///
    /// # Errors
    /// When there is no memory for it; every report has a page.
    pub fn to_html(&self) -> anyhow::Result<String> {
        let drawn = |(at, chart)| Picture {
            chart,
            wide: chart::svg(chart, &format!("c{at}w"), Width::Wide),
            narrow: chart::svg(chart, &format!("c{at}n"), Width::Narrow),
        };
        let page = Page {
            report: self,
            verdict: self.verdict(),
            class: match (self.checks.is_empty(), self.held()) {
                (true, _) => "none",
                (false, true) => "held",
                (false, false) => "broken",
            },
            pictures: self.charts.iter().enumerate().map(drawn).collect(),
            style: include_str!("../../templates/report.css"),
            chart_style: chart::STYLE,
            made_by: concat!("outlay-loadtest ", env!("CARGO_PKG_VERSION")),
        };
        Ok(page.render()?)
    }
}

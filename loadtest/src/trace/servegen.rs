//! Rates by client, as derived from the ServeGen traces: each row is ten minutes of one client, with the
//! rate of its requests and the law of the times between them. Arrivals are drawn from them.
//!
//! Lengths come from the file beside it whose name says `tokens` instead of `rates`, where there is one:
//! log-normal, through the median and the 90th percentile of the client's window.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Gamma, LogNormal, Weibull};

use super::azure::out_of_order;
use super::{Arrival, Cut, TOKENS_MAX, TraceError, beside, number, rows};

pub(super) const HEADER: &str = "client,window_start_s,rate_rps,iat_cv,pattern,arg1,arg2";
const WINDOW_S: f64 = 600.0;
/// What is assumed of clients whose lengths nobody recorded: median and 90th percentile.
const LENGTHS: Lengths = Lengths { input: (500.0, 2_000.0, 8_000.0), output: (150.0, 500.0, 2_000.0) };
/// The 90th percentile of the standard normal distribution.
const Z_90: f64 = 1.281_551_6;
/// Without a length the first hour is taken: a trace of two weeks is no load test.
const LENGTH: Duration = Duration::from_secs(3_600);

pub(super) fn is_it(header: &str) -> bool {
    header == HEADER
}

/// Median, 90th percentile and maximum.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    input: (f64, f64, f64),
    output: (f64, f64, f64),
}

/// The time between two requests.
enum Law {
    Gamma(Gamma<f64>),
    Weibull(Weibull<f64>, f64),
}

impl Law {
    /// With this mean in seconds; the shape alone is taken from the file, so that the rate is met.
    fn new(pattern: &str, shape: f64, mean_s: f64) -> Option<Self> {
        match pattern {
            "Gamma" => Gamma::new(shape, mean_s / shape).ok().map(Self::Gamma),
            "Weibull" => {
                let law = Weibull::new(1.0, shape).ok()?;
                Some(Self::Weibull(law, mean_s / libm::tgamma(1.0 + 1.0 / shape)))
            }
            _ => None,
        }
    }

    fn draw(&self, random: &mut SmallRng) -> f64 {
        match self {
            Self::Gamma(law) => law.sample(random),
            Self::Weibull(law, scale) => law.sample(random) * scale,
        }
    }
}

pub(super) fn read(path: &Path, text: &str, cut: Cut) -> Result<Vec<Arrival>, TraceError> {
    let name = path.display().to_string();
    let lengths = match beside(path, "rates", "tokens").filter(|beside| beside.exists()) {
        Some(beside) => lengths(&beside)?,
        None => HashMap::new(),
    };
    let (from, to) = (cut.from.as_secs_f64(), (cut.from + cut.length.unwrap_or(LENGTH)).as_secs_f64());
    let mut before: HashMap<String, f64> = HashMap::new();
    let mut arrivals = Vec::new();
    for row in rows(&name, text) {
        let (place, row) = row?;
        let client = row.get(0).unwrap_or_default().trim().to_owned();
        if client.is_empty() {
            return Err(TraceError(format!("{place}: client is empty")));
        }
        let start: f64 = number(&place, "window_start_s", row.get(1), (0.0, 1e9))?;
        let rate: f64 = number(&place, "rate_rps", row.get(2), (1e-9, 1e6))?;
        let shape: f64 = number(&place, "arg1", row.get(5), (1e-3, 1e6))?;
        let pattern = row.get(4).unwrap_or_default().trim();
        let law = Law::new(pattern, shape, 1.0 / rate).ok_or_else(|| {
            TraceError(format!("{place}: pattern is {pattern:?}; known are Gamma and Weibull"))
        })?;
        if before.insert(client.clone(), start).is_some_and(|before| start < before) {
            return Err(out_of_order(&place));
        }
        if start + WINDOW_S <= from || start >= to {
            continue;
        }
        let random = &mut SmallRng::seed_from_u64(seed(cut.seed, &client, start));
        let long = lengths.get(&client).and_then(|by_time| by_time.range(..=start as u64).next_back());
        let long = long.map_or(LENGTHS, |(_, long)| *long);
        let tenant: Arc<str> = format!("client-{client}").into();
        let mut at = start + law.draw(random);
        while at < start + WINDOW_S {
            if at >= from && at < to {
                let (input_tokens, output_tokens) = (draw(long.input, random), draw(long.output, random));
                let at = Duration::from_secs_f64(at - from);
                arrivals.push(Arrival { at, tenant: Arc::clone(&tenant), input_tokens, output_tokens });
            }
            // Laws with very uneven steps draw zeros; time has to go on.
            at += law.draw(random).max(1e-6);
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    Ok(arrivals)
}

/// By client and the start of the window.
fn lengths(path: &Path) -> Result<HashMap<String, BTreeMap<u64, Lengths>>, TraceError> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| TraceError(format!("cannot read {name}: {error}")))?;
    let mut all: HashMap<_, BTreeMap<_, _>> = HashMap::new();
    for row in rows(&name, &text) {
        let (place, row) = row?;
        let of =
            |field: &str, at: usize| number::<f64>(&place, field, row.get(at), (0.0, f64::from(TOKENS_MAX)));
        let start = of("window_start_s", 1)? as u64;
        let long = Lengths {
            input: (of("in_p50", 3)?, of("in_p90", 4)?, of("in_max", 6)?),
            output: (of("out_p50", 8)?, of("out_p90", 9)?, of("out_max", 11)?),
        };
        all.entry(row.get(0).unwrap_or_default().trim().to_owned()).or_default().insert(start, long);
    }
    Ok(all)
}

fn draw((median, p90, most): (f64, f64, f64), random: &mut SmallRng) -> u32 {
    let median = median.max(1.0);
    let sigma = (p90.max(median) / median).ln() / Z_90;
    let drawn = LogNormal::new(median.ln(), sigma).map_or(median, |law| law.sample(random));
    drawn.clamp(1.0, most.max(1.0)).round() as u32
}

/// Windows are drawn apart, so that a cut of a trace has the same arrivals as the whole.
fn seed(seed: u64, client: &str, start: f64) -> u64 {
    let text = format!("{seed}/{client}/{start}");
    crate::provider::hash_str(&text)
}

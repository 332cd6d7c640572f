//! Fewer points than a screen has columns show as much as all of them.

/// Beyond this, sums and differences are no numbers any more.
const LARGEST: f64 = 1e300;

/// Whether something can be drawn.
pub(super) fn is_drawable(value: f64) -> bool {
    // False for what is no number, too.
    value.abs() < LARGEST
}

/// The stretches between gaps, in the order of time. A point without a value ends a stretch, one without a time
/// is left out.
pub(super) fn stretches(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let mut timed: Vec<_> = points.iter().copied().filter(|(at, _)| is_drawable(*at)).collect();
    timed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let found = timed.split(|(_, value)| !is_drawable(*value)).filter(|stretch| !stretch.is_empty());
    found.map(<[_]>::to_vec).collect()
}

/// The positions of the points to keep: of each of `columns` equal parts of the time the first, the last, the
/// least and the greatest, so that no peak is lost. All of them where there are not many.
pub(super) fn kept(times: &[f64], values: &[f64], columns: usize) -> Vec<usize> {
    let count = times.len().min(values.len());
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
    if count <= columns.saturating_mul(2) || last <= first {
        return (0..count).collect();
    }
    let column = |at: usize| ((times[at] - first) / (last - first) * columns as f64) as usize;
    let mut kept = Vec::new();
    let mut at = 0;
    while at < count {
        let here = column(at);
        let end = (at..count).find(|next| column(*next) != here).unwrap_or(count);
        let by_value = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
        let least = (at..end).min_by(by_value).unwrap_or(at);
        let greatest = (at..end).max_by(by_value).unwrap_or(at);
        let mut of_column = [at, least, greatest, end - 1];
        of_column.sort_unstable();
        kept.extend(of_column);
        at = end;
    }
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_split_and_disorder_is_sorted() {
        let points =
            [(2.0, 1.0), (1.0, 5.0), (3.0, f64::NAN), (f64::NAN, 9.0), (4.0, f64::INFINITY), (5.0, 2.0)];
        assert_eq!(stretches(&points), [vec![(1.0, 5.0), (2.0, 1.0)], vec![(5.0, 2.0)]]);
        assert!(stretches(&[]).is_empty());
    }

    #[test]
    fn many_points_become_few_and_keep_their_peaks() {
        let times: Vec<f64> = (0..10_000).map(f64::from).collect();
        let mut values = vec![1.0; 10_000];
        values[1234] = 99.0;
        values[8765] = -99.0;
        let kept = kept(&times, &values, 500);
        assert!(kept.len() <= 4 * 501, "{}", kept.len());
        assert!(kept.contains(&0) && kept.contains(&9_999) && kept.contains(&1234) && kept.contains(&8765));
        assert!(kept.is_sorted());
    }

    #[test]
    fn few_points_all_stay() {
        assert_eq!(kept(&[0.0, 1.0, 2.0], &[1.0, 2.0, 3.0], 10), [0, 1, 2]);
        assert_eq!(kept(&[1.0; 50], &[2.0; 50], 10).len(), 50);
        assert!(kept(&[], &[], 10).is_empty());
    }
}

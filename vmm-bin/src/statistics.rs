//! What is told of many times: the middle, the slow end, and either in words.

/// The value that `percent` of the sorted `values` do not exceed (nearest rank); 0 if there are none.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// The middle value; of an even number of values, the lower of the two.
pub(crate) fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    percentile(&values, 50)
}

/// Nanoseconds for people: `850 ns`, `7.1 µs`, `12.5 ms`, `1.2 s`.
pub(crate) fn time(nanoseconds: u64) -> String {
    match (nanoseconds, nanoseconds as f64) {
        (0..1000, _) => format!("{nanoseconds} ns"),
        (1000..1_000_000, float) => format!("{:.1} µs", float / 1e3),
        (1_000_000..1_000_000_000, float) => format!("{:.1} ms", float / 1e6),
        (_, float) => format!("{:.1} s", float / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_one_of_the_values() {
        assert_eq!(median(vec![9, 1, 5]), 5);
        assert_eq!(median(vec![4, 1, 3, 2]), 2);
        assert_eq!(median(vec![7]), 7);
        assert_eq!(median(vec![]), 0);
    }

    #[test]
    fn a_percentile_is_the_least_value_that_so_many_do_not_exceed() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 99), 99);
        assert_eq!(percentile(&hundred, 100), 100);
        assert_eq!(percentile(&[1, 2, 3], 99), 3);
    }

    #[test]
    fn times_are_told_in_a_unit_that_fits() {
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(1000), "1.0 µs");
        assert_eq!(time(7149), "7.1 µs");
        assert_eq!(time(12_500_000), "12.5 ms");
        assert_eq!(time(1_240_000_000), "1.2 s");
    }
}

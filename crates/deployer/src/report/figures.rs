//! Figures in words.

use crate::evidence::latency::milliseconds;

/// The names of figures that are shares, 0–1.
const SHARES: [&str; 4] = ["accuracy", "agreement", "drop", "error_rate"];

/// Formats a figure by the unit in its name, with three or four digits.
pub(crate) fn figure(name: &str, value: f64) -> String {
    if name.ends_with("_seconds") {
        return milliseconds(value);
    }
    if SHARES.iter().any(|share| is_of(share, name)) {
        return format!("{:.1} %", value * 100.0);
    }
    if name.contains("_ratio") {
        return format!("{value:.2} times");
    }
    if value.fract() == 0.0 && value.abs() < 1e12 {
        return format!("{value:.0}");
    }
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}")
    }
}

/// Whether the figure is this share, one of its bounds, or the active release's.
fn is_of(share: &str, name: &str) -> bool {
    let name = name.strip_prefix("active_").unwrap_or(name);
    let rest = name.strip_prefix(share);
    rest.is_some_and(|rest| matches!(rest, "" | "_low" | "_high" | "_limit" | "_minimum"))
}

/// The name of a figure without its unit.
pub(crate) fn name_in_words(name: &str) -> String {
    name.trim_end_matches("_seconds").replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_is_formatted_by_the_unit_in_its_name() {
        for (name, value, expected) in [
            ("error_rate_high", 0.0123, "1.2 %"),
            ("active_accuracy", 0.9, "90.0 %"),
            ("drop_by_chance", 0.5, "0.5000"),
            ("p99_ratio_low", 1.234, "1.23 times"),
            ("requests", 12.0, "12"),
            ("requests_per_second", 120.6, "121"),
        ] {
            assert_eq!(figure(name, value), expected, "{name}");
        }
    }
}

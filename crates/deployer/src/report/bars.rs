//! Figures with their limits, each as a bar: the interval in which the truth lies, and where the limit is.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::report::{
    axes::number,
    figures::{figure, name_in_words},
};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 22.0;
/// Room for half of a mark at both ends.
const SIDE: f64 = 4.0;

/// A figure that has an interval, a limit, or both.
#[derive(Debug, PartialEq)]
struct Measure<'a> {
    name: &'a str,
    value: f64,
    /// The bounds between which the truth lies.
    interval: Option<[f64; 2]>,
    limit: Option<Limit>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// The figures that have an interval or a limit. A figure `X` has the bounds `X_low` and `X_high`, and the limit `X_limit` or
/// `X_minimum`; a unit follows at the end.
fn measures(numbers: &BTreeMap<String, f64>) -> Vec<Measure<'_>> {
    const UNIT: &str = "_seconds";

    let measure = |(name, value): (&'_ String, &f64)| {
        let (stem, unit) = match name.strip_suffix(UNIT) {
            Some(stem) => (stem, UNIT),
            None => (name.as_str(), ""),
        };
        let of = |suffix: &str| numbers.get(&format!("{stem}_{suffix}{unit}")).copied();
        let limit = of("limit").map(Limit::AtMost);
        Some((
            *value,
            of("low").zip(of("high")).map(|(low, high)| [low, high]),
            limit.or_else(|| of("minimum").map(Limit::AtLeast)),
        ))
        .filter(|(_, interval, limit)| interval.is_some() || limit.is_some())
    };
    let measures = numbers.iter().filter_map(|entry| {
        let (value, interval, limit) = measure(entry)?;
        Some(Measure {
            name: entry.0,
            value,
            interval,
            limit,
        })
    });
    measures.collect()
}

/// Draws the figures that have an interval or a limit.
pub(super) fn bars(numbers: &BTreeMap<String, f64>) -> Markup {
    let measures = measures(numbers);
    html! {
        @if !measures.is_empty() {
            dl.measures {
                @for measure in &measures {
                    div {
                        dt { (name_in_words(measure.name)) }
                        dd { (measure.draw()) (measure.in_words()) }
                    }
                }
            }
        }
    }
}

impl Measure<'_> {
    fn in_words(&self) -> Markup {
        let words = |value: f64| figure(self.name, value);
        html! {
            span.words {
                strong { (words(self.value)) }
                @if let Some([low, high]) = self.interval {
                    ", 99 % sure of " (words(low)) " to " (words(high))
                }
                @match self.limit {
                    Some(Limit::AtMost(limit)) => { "; at most " (words(limit)) " allowed" }
                    Some(Limit::AtLeast(limit)) => { "; at least " (words(limit)) " needed" }
                    None => {}
                }
            }
        }
    }

    /// The words beside the drawing say the same.
    fn draw(&self) -> Markup {
        let [low, high] = self.interval.unwrap_or([self.value, self.value]);
        let limit = self.limit.map(Limit::value);
        let from = low.min(self.value).min(limit.unwrap_or(0.0)).min(0.0);
        let to = high.max(self.value).max(limit.unwrap_or(0.0));
        // Room beyond the last mark, so that a reader sees on which side of the limit the interval ends.
        let span = ((to - from) * 1.15).max(f64::MIN_POSITIVE);
        let x = |value: f64| number(SIDE + (WIDTH - 2.0 * SIDE) * (value - from) / span);
        let middle = HEIGHT / 2.0;
        let tone = match self.limit {
            Some(limit) if !limit.holds(self.value) => "beyond",
            Some(_) => "within",
            None => "free",
        };
        html! {
            svg.bar viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) aria-hidden="true" focusable="false" {
                line.track x1=(SIDE) x2=(WIDTH - SIDE) y1=(middle) y2=(middle) {}
                line class={ "interval " (tone) } x1=(x(low)) x2=(x(high)) y1=(middle) y2=(middle) {}
                circle class={ "value " (tone) } cx=(x(self.value)) cy=(middle) r="4.5" {}
                @if let Some(limit) = limit {
                    line.limit x1=(x(limit)) x2=(x(limit)) y1="1" y2=(HEIGHT - 1.0) {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(numbers: &[(&str, f64)]) -> BTreeMap<String, f64> {
        let numbers = numbers.iter();
        numbers
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn figures_with_interval_or_limit_are_measures() {
        let numbers = numbers(&[
            ("accuracy", 0.9),
            ("accuracy_minimum", 0.7),
            ("drop", 0.01),
            ("drop_low", -0.01),
            ("drop_high", 0.02),
            ("inputs", 500.0),
            ("p99_seconds", 0.2),
            ("p99_limit_seconds", 1.0),
        ]);
        let measures = measures(&numbers);
        let drawn: Vec<_> = measures
            .iter()
            .map(|it| (it.name, it.interval, it.limit))
            .collect();
        assert_eq!(
            drawn,
            [
                ("accuracy", None, Some(Limit::AtLeast(0.7))),
                ("drop", Some([-0.01, 0.02]), None),
                ("p99_seconds", None, Some(Limit::AtMost(1.0))),
            ]
        );
    }

    #[test]
    fn bar_says_its_interval_and_limit_in_words() {
        let drawn = bars(&numbers(&[
            ("error_rate", 0.01),
            ("error_rate_low", 0.002),
            ("error_rate_high", 0.04),
            ("error_rate_limit", 0.05),
        ]));
        let drawn = drawn.into_string();
        let words = "<strong>1.0 %</strong>, 99 % sure of 0.2 % to 4.0 %; at most 5.0 % allowed";
        assert!(drawn.contains(words), "{drawn}");
        assert!(drawn.contains("class=\"value within\""), "{drawn}");
        assert!(
            bars(&numbers(&[("requests", 9.0)]))
                .into_string()
                .is_empty()
        );
    }
}

//! Converts `OpenMetrics` text to Prometheus' older text format, which every scraper reads.

use std::collections::HashMap;

/// Converts to version 0.0.4: a family has the name of its samples, `info` becomes a gauge, and `UNIT` and
/// `EOF` are left out.
pub(crate) fn to_prometheus_text(open_metrics: &str) -> String {
    let types: HashMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let name_and_kind = |family: &str| match types.get(family).copied() {
        Some("counter") => (format!("{family}_total"), "counter"),
        Some("info") => (format!("{family}_info"), "gauge"),
        Some(kind @ ("gauge" | "histogram" | "summary")) => (family.to_owned(), kind),
        Some(_) | None => (family.to_owned(), "untyped"),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.extend([line, "\n"]);
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(word), Some(family)) = (words.next(), words.next()) else {
            continue;
        };
        let (name, kind) = name_and_kind(family);
        match word {
            "HELP" => {
                let help = words.next().unwrap_or_default();
                text.extend(["# HELP ", &name, " ", help, "\n"]);
            }
            "TYPE" => text.extend(["# TYPE ", &name, " ", kind, "\n"]),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text_names_families_like_samples() {
        let open_metrics = "\
# HELP requests Requests.
# TYPE requests counter
requests_total{code=\"200\"} 3
# HELP model The release.
# TYPE model info
model_info{version=\"v1\"} 1
# HELP wait_seconds Waiting time.
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
wait_seconds_sum 0.5
wait_seconds_count 1
wait_seconds_bucket{le=\"+Inf\"} 1
# EOF
";
        let expected = "\
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{code=\"200\"} 3
# HELP model_info The release.
# TYPE model_info gauge
model_info{version=\"v1\"} 1
# HELP wait_seconds Waiting time.
# TYPE wait_seconds histogram
wait_seconds_sum 0.5
wait_seconds_count 1
wait_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(to_prometheus_text(open_metrics), expected);
    }
}

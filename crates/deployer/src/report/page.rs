//! The report as an HTML page: one file without external resources, for screen and paper.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    deployment::phase::Phase,
    report::{
        charts::{self, OverTime},
        endings::{self, UNANSWERED},
        phases::{approvals, phases},
        record::{Record, TrafficSecond},
        verdicts::gates,
    },
};

/// The style of a report, and of the pages that the monitor serves.
pub(crate) const STYLE: &str = include_str!("page.css");

/// Renders the page of a deployment as a file.
pub(super) fn html(record: &Record) -> String {
    let plan = &record.plan;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title(record)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (deployment(record)) }
                footer { "Data: " code { (plan.id) ".json" } " beside this page, schema " (record.schema) "." }
            }
        }
    }
    .into_string()
}

/// The title of a deployment's page.
pub(crate) fn title(record: &Record) -> String {
    let release = &record.plan.release;
    let end = record.phase();
    let end = end.map_or_else(String::new, |end| format!(": {end}"));
    format!("{} {}{end}", release.model, release.version)
}

/// A deployment with all its evidence: the content of its report, and of its page.
pub(crate) fn deployment(record: &Record) -> Markup {
    let release = &record.plan.release;
    let end = record.phase();
    html! {
        header {
            p.kicker { "Deployment " (record.plan.id) }
            h1 {
                (release.model) " " (release.version) " "
                span class=(tone(end)) { (mark(end)) " " (end.map_or("not begun", Phase::as_str)) }
            }
            @if let Some(reason) = &record.reason { p.reason { (reason) } }
        }
        (facts(record))
        h2 { "Phases" }
        (phases(record))
        (approvals(record))
        h2 { "Evidence" }
        (gates(record))
        (traffic(record))
        @if !record.notes.is_empty() {
            h2 { "Notes" }
            ul.notes { @for note in &record.notes { li { (note) } } }
        }
    }
}

/// The style of a conclusion. The word itself says the same.
pub(crate) fn tone(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Promoted) => "good",
        Some(Phase::Refused | Phase::RolledBack | Phase::Halted) => "bad",
        _ => "open",
    }
}

/// The mark of a conclusion.
pub(crate) fn mark(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Promoted) => "✓",
        Some(Phase::Refused | Phase::Halted) => "✗",
        Some(Phase::RolledBack) => "↩",
        _ => "…",
    }
}

/// Release, colors, and times of a deployment.
pub(crate) fn facts(record: &Record) -> Markup {
    let plan = &record.plan;
    let digest = plan.release.digest.as_deref();
    let took = record.phases.first().zip(record.phases.last());
    html! {
        dl.facts {
            div { dt { "To" } dd { (plan.idle) } }
            div { dt { "Active before" } dd { (plan.active) } }
            @if let Some(digest) = digest {
                div { dt { "Digest" } dd { (short_digest(digest)) } }
            }
            @if let Some((first, last)) = took {
                div { dt { "Began (UTC)" } dd { (moment(first.at)) } }
                div { dt { "Took" } dd { (since(Some(first.at), last.at)) } }
            }
        }
    }
}

/// Enough digits of a digest to tell releases apart. All of them are its title.
pub(crate) fn short_digest(digest: &str) -> Markup {
    html! { code title=(digest) { (digest.get(..12).unwrap_or(digest)) } }
}

fn traffic(record: &Record) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our time fit")]
    let seconds = |at: Timestamp| at.as_millisecond() as f64 / 1e3;
    let mut ends = record.phases.iter();
    let rolled_back = ends.find(|reached| reached.phase == Phase::RolledBack);
    // In the other seconds only the deployer sent requests.
    let by_clients = record.traffic.iter().filter(|second| second.requests > 0);
    let by_clients: Vec<TrafficSecond> = by_clients.cloned().collect();
    let over_time = |title| OverTime {
        title,
        seconds: &by_clients,
        candidate: record.plan.idle,
        switched: record.switched.map(seconds),
        rolled_back: rolled_back.map(|reached| seconds(reached.at)),
    };
    let errors = over_time("Failed requests").draw(
        0.01,
        |second| second.failed as f64 / second.requests as f64,
        charts::percent,
    );
    let waits = over_time("What 99 % of the requests waited at most").draw(
        0.001,
        |second| second.p99,
        crate::evidence::latency::milliseconds,
    );
    let requests = over_time("Requests per second").draw(
        1.0,
        |second| second.requests as f64,
        |count| format!("{count:.0}"),
    );
    let endings = over_time("Share of clients' requests that were not answered").stack(&UNANSWERED);
    html! {
        @if let Some(errors) = errors {
            h2 { "What clients saw" }
            (errors)
            @if let Some(waits) = waits { (waits) }
            @if let Some(requests) = requests { (requests) }
            p.hint { "By the router's log. A request that a color failed counts against it also when the other one then answered." }
        }
        @if let Some(table) = endings::table(record) {
            h2 { "How requests ended" }
            @if let Some(endings) = endings { (endings) }
            (table)
        }
    }
}

/// A time of the day in UTC, with seconds.
pub(crate) fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// A date and a time in UTC.
pub(crate) fn moment(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M:%S")) } }
}

/// The time between two moments, such as `12.3 s` or `2 min 5 s`; empty if the first one is not known.
pub(crate) fn since(from: Option<Timestamp>, to: Timestamp) -> String {
    let Some(from) = from else {
        return String::new();
    };
    let milliseconds = to.as_millisecond() - from.as_millisecond();
    duration(milliseconds as f64 / 1e3)
}

/// A duration of so many seconds in words.
pub(crate) fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    let hours = (seconds / 3600.0).floor();
    if hours >= 48.0 {
        format!("{:.1} days", seconds / 86_400.0)
    } else if hours >= 1.0 {
        format!("{hours:.0} h {:.0} min", minutes - hours * 60.0)
    } else if minutes >= 1.0 {
        format!(
            "{minutes:.0} min {:.0} s",
            (seconds - minutes * 60.0).floor()
        )
    } else {
        format!("{seconds:.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        color::Color,
        deployment::plan::Plan,
        evidence::{ending_counts::EndingCounts, request::Ending},
        release::Release,
        report::record::PhaseRecord,
    };

    /// The relative luminance of a color (WCAG 2.1).
    fn luminance(color: &str) -> f64 {
        let channel = |at: usize| {
            let value = u8::from_str_radix(&color[at..at + 2], 16).unwrap();
            let share = f64::from(value) / 255.0;
            if share <= 0.040_45 {
                share / 12.92
            } else {
                ((share + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    #[test]
    fn page_text_has_enough_contrast_in_light_and_dark() {
        for scheme in [0, 1] {
            let luminance_of = |name: &str| {
                let (_, rest) = STYLE.split_once(&format!("--{name}: light-dark(")).unwrap();
                let (colors, _) = rest.split_once(')').unwrap();
                luminance(colors.split(", ").nth(scheme).unwrap())
            };
            for ground in ["ground", "card"] {
                for text in [
                    "ink",
                    "faint",
                    "good",
                    "bad",
                    "open",
                    "active",
                    "candidate",
                    "blue",
                    "green",
                ] {
                    let [first, second] = [ground, text].map(|name| luminance_of(name) + 0.05);
                    let contrast = first.max(second) / first.min(second);
                    assert!(
                        contrast >= 4.5,
                        "{text} on {ground} in scheme {scheme}: {contrast:.2}"
                    );
                }
            }
        }
    }

    /// A deployment to green.
    fn record() -> Record {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Record::new(Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release))
    }

    /// Ten requests within a second.
    fn second(second: i64, color: Color) -> TrafficSecond {
        TrafficSecond {
            second,
            color,
            requests: 10,
            failed: 0,
            p50: 0.01,
            p99: 0.02,
            endings: EndingCounts::default(),
            own_endings: EndingCounts::default(),
        }
    }

    #[test]
    fn endings_are_stacked_and_listed_by_color_and_sender() {
        let mut record = record();
        record.switched = Some(Timestamp::from_second(1).unwrap());
        record.traffic = vec![
            TrafficSecond {
                endings: EndingCounts::of_all(&[Ending::Answered, Ending::Refused(422)]),
                ..second(0, Color::Blue)
            },
            // By the release that the candidate replaced.
            TrafficSecond {
                endings: EndingCounts::of_all(&[Ending::Answered, Ending::Left]),
                ..second(0, Color::Green)
            },
            TrafficSecond {
                endings: EndingCounts::of_all(&[
                    Ending::Answered,
                    Ending::Failed,
                    Ending::GaveUp,
                    Ending::GaveUp,
                ]),
                own_endings: EndingCounts::of_all(&[Ending::Answered]),
                ..second(1, Color::Green)
            },
        ];
        let page = html(&record);
        let row = |kind: &str| {
            let (_, row) = page.split_once(&format!("</svg>{kind}<")).unwrap();
            let (row, _) = row.split_once("</tr>").unwrap();
            let cells = row.split("<td class=\"number\">").skip(1);
            let cells = cells.map(|cell| cell.trim_end_matches("</td>").parse().unwrap());
            cells.collect::<Vec<u64>>()
        };
        assert_eq!(row("answered"), [1, 1, 1]);
        assert_eq!(row("refused"), [1, 0, 0]);
        assert_eq!(row("gave up"), [0, 2, 0]);
        assert_eq!(row("left"), [0, 0, 0]);
        assert!(!page.contains("</svg>cut<"), "{page}");
        // In the second of green, a quarter failed, and above that one half gave up.
        let bars = |kind: &str| {
            let (_, drawn) = page
                .split_once(&format!("class=\"ending {kind}\""))
                .unwrap();
            let (_, drawn) = drawn.split_once(" d=\"").unwrap();
            drawn.split_once('"').unwrap().0.to_owned()
        };
        assert_eq!(bars("failed"), "M534.5 166.0L534.5 116.0");
        assert_eq!(bars("gave_up"), "M534.5 116.0L534.5 16.0");
    }

    #[test]
    fn traffic_of_deployer_alone_is_listed_without_charts() {
        let mut record = record();
        record.traffic = vec![TrafficSecond {
            requests: 0,
            own_endings: EndingCounts::of_all(&[Ending::Answered]),
            ..second(0, Color::Green)
        }];
        let page = html(&record);
        assert!(page.contains("How requests ended"), "{page}");
        assert!(!page.contains("<figure>"), "{page}");
    }

    #[test]
    fn rollback_is_marked_in_each_traffic_chart() {
        let began = Timestamp::from_second(1_700_000_000).unwrap();
        let at = |seconds: i64| Timestamp::from_second(began.as_second() + seconds).unwrap();
        let mut record = record();
        let second = |seconds: i64, color| TrafficSecond {
            endings: EndingCounts::of_all(&[Ending::GaveUp]),
            ..second(began.as_second() + seconds, color)
        };
        record.traffic = vec![
            second(0, Color::Blue),
            second(2, Color::Green),
            second(3, Color::Green),
        ];
        record.switched = Some(at(1));
        let moments = |record: &Record| html(record).matches("class=\"moment\"").count();
        assert_eq!(moments(&record), 4);
        let rolled_back = |seconds| PhaseRecord {
            phase: Phase::RolledBack,
            at: at(seconds),
        };
        record.phases.push(rolled_back(5));
        assert_eq!(moments(&record), 8);
        // A rollback long after the deployment, by a later command, is outside of the charts.
        record.phases = vec![rolled_back(500)];
        assert_eq!(moments(&record), 4);
    }
}

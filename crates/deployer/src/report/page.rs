//! The report as an HTML page: one file without external resources, for screen and paper.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    deployment::phase::Phase,
    evidence::{details::Flip, verdict::Conclusion},
    report::{
        charts::{self, OverTime},
        endings::{self, UNANSWERED},
        record::{GateRecord, Record, TrafficSecond},
    },
};

const STYLE: &str = include_str!("page.css");

/// Renders the page of a deployment.
pub(super) fn html(record: &Record) -> String {
    let Record {
        plan,
        phases,
        gates,
        notes,
        ..
    } = record;
    let title = format!("{} {}", plan.release.model, plan.release.version);
    let end = record.phase();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) @if let Some(end) = end { ": " (end) } }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.kicker { "Deployment " (plan.id) }
                    h1 { (title) " " span class=(tone(end)) { (mark(end)) " " (end.map_or("not begun", Phase::as_str)) } }
                    @if let Some(reason) = &record.reason { p.reason { (reason) } }
                }
                (facts(record))
                h2 { "Evidence" }
                @if gates.is_empty() { p { "No gate ran." } }
                @for judged in gates { (gate(judged)) }
                (traffic(record))
                @for judged in gates.iter().filter(|judged| !judged.flips.is_empty()) {
                    (flips(&judged.flips))
                }
                h2 { "Phases" }
                table {
                    thead { tr { th { "Phase" } th { "At (UTC)" } th.number { "After" } } }
                    tbody {
                        @for reached in phases {
                            tr {
                                td { (reached.phase) }
                                td { (clock(reached.at)) }
                                td.number { (since(phases.first().map(|first| first.at), reached.at)) }
                            }
                        }
                    }
                }
                @if !notes.is_empty() {
                    h2 { "Notes" }
                    ul { @for note in notes { li { (note) } } }
                }
                footer { "Data: " code { (plan.id) ".json" } " beside this page, schema " (record.schema) "." }
            }
        }
    }
    .into_string()
}

/// The style of a conclusion. The word itself says the same.
fn tone(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Promoted) => "good",
        Some(Phase::Refused | Phase::RolledBack | Phase::Halted) => "bad",
        _ => "open",
    }
}

fn mark(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Promoted) => "✓",
        Some(Phase::Refused | Phase::Halted) => "✗",
        Some(Phase::RolledBack) => "↩",
        _ => "…",
    }
}

fn facts(record: &Record) -> Markup {
    let plan = &record.plan;
    let digest = plan.release.digest.as_deref();
    let took = record.phases.first().zip(record.phases.last());
    html! {
        dl.facts {
            div { dt { "To" } dd { (plan.idle) } }
            div { dt { "Active before" } dd { (plan.active) } }
            @if let Some(digest) = digest {
                div { dt { "Digest" } dd { code title=(digest) { (digest.get(..12).unwrap_or(digest)) } } }
            }
            @if let Some((first, last)) = took {
                div { dt { "Began (UTC)" } dd { (first.at.strftime("%Y-%m-%d %H:%M:%S")) } }
                div { dt { "Took" } dd { (since(Some(first.at), last.at)) } }
            }
        }
    }
}

fn gate(judged: &GateRecord) -> Markup {
    let (tone, mark) = match judged.verdict {
        Conclusion::Pass => ("good", "✓"),
        Conclusion::Fail => ("bad", "✗"),
        Conclusion::Inconclusive => ("open", "?"),
        Conclusion::Skipped => ("skipped", "–"),
    };
    html! {
        section.gate {
            h3 {
                (judged.gate) " "
                span class=(tone) { (mark) " " (judged.verdict) }
                @if let Some(started) = judged.started { span.took { (since(Some(started), judged.finished)) } }
            }
            p.summary { (judged.summary) }
            @for warning in &judged.warnings { p.warning { "⚠ " (warning) } }
            @if let Some(drawing) = charts::latencies(&judged.active_latency, &judged.candidate_latency) { (drawing) }
            @if !judged.errors.is_empty() {
                table {
                    thead { tr { th { "Error" } th.number { "Requests" } } }
                    tbody { @for (kind, count) in &judged.errors { tr { td { (kind) } td.number { (count) } } } }
                }
            }
            @if !judged.numbers.is_empty() {
                // No `details` element: most browsers do not print what is closed.
                label.more { input type="checkbox"; " Numbers" }
                dl.numbers {
                    @for (name, value) in &judged.numbers {
                        div { dt { (name.trim_end_matches("_seconds").replace('_', " ")) } dd { (figure(name, *value)) } }
                    }
                }
            }
        }
    }
}

/// Formats a number with three or four digits.
fn figure(name: &str, value: f64) -> String {
    if name.ends_with("_seconds") {
        return crate::evidence::latency::milliseconds(value);
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

fn flips(flips: &[Flip]) -> Markup {
    let sure = |confidence: Option<f64>| {
        confidence.map_or_else(String::new, |it| format!(" ({:.0}\u{a0}%)", it * 100.0))
    };
    html! {
        h2 { "Inputs that the releases disagree on" }
        p.hint { "The ones of which both are surest come first; " (flips.len()) " are listed." }
        table.flips {
            thead { tr { th { "Input" } th { "Active" } th { "Candidate" } th { "Right" } } }
            tbody {
                @for flip in flips {
                    tr {
                        td.input { (flip.input) }
                        td { (flip.active) (sure(flip.active_confidence)) }
                        td { (flip.candidate) (sure(flip.candidate_confidence)) }
                        td { (flip.expect.as_deref().unwrap_or("not known")) }
                    }
                }
            }
        }
    }
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S%.3f").to_string()
}

fn since(from: Option<Timestamp>, to: Timestamp) -> String {
    let Some(from) = from else {
        return String::new();
    };
    let seconds = (to.as_millisecond() - from.as_millisecond()) as f64 / 1e3;
    format!("{seconds:.1} s")
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
                for text in ["ink", "faint", "good", "bad", "open", "active", "candidate"] {
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

//! The history with its filters, and the DORA figures.

use maud::{Markup, html};

use crate::{
    monitor::page::{
        figures::{DAYS, Figures},
        view::{HistoryFilter, HistoryView, PageView},
    },
    report::page::{duration, moment},
    state::{action::Action, history::HistoryEntry},
};

/// How many lines of the history are shown, and how many deployments can be compared.
const SHOWN: usize = 50;

pub(super) fn history(view: &PageView, filter: &HistoryFilter) -> Markup {
    let HistoryView { entries, figures } = &*view.round.history;
    let selected: Vec<&HistoryEntry> = entries
        .iter()
        .rev()
        .filter(|entry| filter.selects(entry))
        .collect();
    html! {
        h2 { "History" }
        (dora(figures))
        (filters(filter))
        @if selected.is_empty() {
            p.hint { @if entries.is_empty() { "The history is empty." } @else { "No line of the history matches." } }
        } @else {
            (table(&selected[..selected.len().min(SHOWN)]))
            @if selected.len() > SHOWN {
                p.hint { "The last " (SHOWN) " of " (selected.len()) " lines. " code { "deployer history" } " prints all of them." }
            }
        }
        (compare(entries))
    }
}

impl HistoryFilter {
    /// Whether all lines are shown.
    pub(super) fn is_empty(&self) -> bool {
        self.action.is_empty() && self.version.is_empty()
    }

    fn selects(&self, entry: &HistoryEntry) -> bool {
        let action = self.action.is_empty() || name(entry.action) == self.action;
        let version = entry.version.as_deref().unwrap_or_default();
        action && version.contains(&self.version)
    }
}

/// The name of an action in files and addresses.
fn name(action: Action) -> String {
    action.as_str().replace([' ', '-'], "_")
}

fn dora(figures: &Figures) -> Markup {
    let frequency = figures.deployments as f64 / figures.days;
    let (often, period) = if frequency >= 1.0 {
        (frequency, "a day")
    } else {
        (frequency * 7.0, "a week")
    };
    let days = match figures.days.ceil() {
        1.0 => "1 day".to_owned(),
        days => format!("{days:.0} days"),
    };
    html! {
        dl.figures {
            div {
                dt { "Deployments" }
                dd { (format!("{often:.1}")) " " (period) span.why { (figures.deployments) " in " (days) } }
            }
            div {
                dt { "Failed" }
                dd {
                    @match figures.failure_rate() {
                        Some(rate) => { (format!("{:.0} %", rate * 100.0)) span.why { (figures.failed) " of " (figures.deployments) } }
                        None => { "–" span.why { "no deployment" } }
                    }
                }
            }
            div {
                dt { "Time to restore" }
                dd {
                    @match figures.time_to_restore {
                        Some(seconds) => { (duration(seconds)) span.why { "median" } }
                        None => { "–" span.why { "not known of any" } }
                    }
                }
            }
            div {
                dt { "Refused" }
                dd { (figures.refused) span.why { "before clients noticed" } }
            }
        }
        p.hint { "At most the last " (DAYS) " days. A deployment counts if its release received traffic." }
    }
}

fn filters(filter: &HistoryFilter) -> Markup {
    const ACTIONS: [Action; 11] = [
        Action::Promoted,
        Action::Refused,
        Action::RolledBack,
        Action::Halted,
        Action::Switched,
        Action::FailedOver,
        Action::Restored,
        Action::NotRestored,
        Action::Stopped,
        Action::StandInOn,
        Action::StandInOff,
    ];
    html! {
        form.filters method="get" action="/#history" {
            div {
                label for="filter-action" { "Action" }
                select id="filter-action" name="action" {
                    option value="" { "all" }
                    @for action in ACTIONS {
                        option value=(name(action)) selected[filter.action == name(action)] { (action.as_str()) }
                    }
                }
            }
            div {
                label for="filter-version" { "Version contains" }
                input type="text" id="filter-version" name="version" value=(filter.version) autocomplete="off" autocapitalize="off" spellcheck="false";
            }
            button type="submit" { "Filter" }
            @if !filter.is_empty() { a href="/#history" { "Show all" } }
        }
    }
}

fn signs(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::Promoted | Action::Restored => ("good", "✓"),
        Action::Refused | Action::Halted | Action::NotRestored => ("bad", "✗"),
        Action::RolledBack | Action::FailedOver => ("bad", "↩"),
        Action::Switched | Action::Stopped | Action::StandInOn | Action::StandInOff => {
            ("open", "→")
        }
    }
}

fn table(entries: &[&HistoryEntry]) -> Markup {
    html! {
        table.history {
            thead {
                tr {
                    th scope="col" { "When (UTC)" }
                    th scope="col" { "What" }
                    th scope="col" { "Release" }
                    th scope="col" { "By" }
                    th scope="col" { "Why" }
                    th scope="col" { "Report" }
                }
            }
            tbody {
                @for entry in entries {
                    @let (tone, mark) = signs(entry.action);
                    tr {
                        td.when { (moment(entry.at)) }
                        td.what { span class=(tone) { (mark) " " (entry.action.as_str()) } }
                        td { (entry.version.as_deref().unwrap_or("unknown")) " on " (entry.color) }
                        td.by { (entry.by) }
                        td.text {
                            (entry.reason.as_deref().unwrap_or_default())
                            @if let Some(seconds) = entry.seconds { span.why { "took " (duration(seconds)) } }
                        }
                        td { @if let Some(id) = &entry.id { a href={ "/deployments/" (id) } aria-label={ "Report of " (id) } { "report" } } }
                    }
                }
            }
        }
    }
}

/// A form that compares two deployments.
fn compare(entries: &[HistoryEntry]) -> Markup {
    let mut ids: Vec<&str> = entries
        .iter()
        .rev()
        .filter_map(|entry| entry.id.as_deref())
        .collect();
    ids.dedup();
    ids.truncate(SHOWN);
    let choice = |name: &str, label: &str, chosen: usize| {
        html! {
            div {
                label for={ "compare-" (name) } { (label) }
                select id={ "compare-" (name) } name=(name) {
                    @for (place, id) in ids.iter().enumerate() { option value=(id) selected[place == chosen] { (id) } }
                }
            }
        }
    };
    html! {
        @if ids.len() > 1 {
            h3 { "Compare two deployments" }
            form.filters method="get" action="/compare" {
                (choice("left", "Left", 1))
                (choice("right", "Right", 0))
                button type="submit" { "Compare" }
            }
        }
    }
}

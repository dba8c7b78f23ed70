//! Decides whether a deployment may switch now. Pure.

use jiff::{SignedDuration, SpanRound, Timestamp, ToSpan as _, Unit};

use crate::config::{Freeze, Window, WindowsSettings};

/// Whether deployments may switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// They may.
    Open,
    /// They may not.
    Closed {
        /// When they may again; `None` if they never will by these settings.
        next: Option<Timestamp>,
        /// The freeze that holds them back, if one does.
        freeze: Option<&'a Freeze>,
    },
}

/// Fails if deployments may not switch at `now`, and no person overrides that. The error names the next opening.
pub fn check(windows: &WindowsSettings, now: Timestamp) -> Result<(), String> {
    if windows.overridden.is_some() {
        return Ok(());
    }
    let Opening::Closed { next, freeze } = opening(windows, now) else {
        return Ok(());
    };
    let why = freeze.map_or_else(
        || "no window for deployments is open".to_owned(),
        |freeze| format!("the freeze {freeze} holds deployments back"),
    );
    let next = next.map_or_else(
        || "by the settings, none opens again".to_owned(),
        |next| {
            let local = next.to_zoned(windows.zone.clone());
            let local = local.strftime("%a %Y-%m-%d %H:%M %Z");
            format!(
                "the next one opens {local}, in {}",
                in_words(next.duration_since(now))
            )
        },
    );
    Err(format!(
        "{why}: {next}. In an emergency, `deployer deploy --outside-window --reason TEXT` deploys now"
    ))
}

/// A duration in days, hours, and minutes.
fn in_words(duration: SignedDuration) -> String {
    let rounded = SpanRound::new().smallest(Unit::Minute).largest(Unit::Day);
    let rounded = rounded.days_are_24_hours();
    // A duration between two timestamps is always in range.
    let span = jiff::Span::try_from(duration).and_then(|span| span.round(rounded));
    span.map_or_else(|_| duration.to_string(), |span| format!("{span:#}"))
}

/// Returns whether deployments may switch at `now`.
#[must_use]
pub fn opening(windows: &WindowsSettings, now: Timestamp) -> Opening<'_> {
    if is_open(windows, now) {
        return Opening::Open;
    }
    let mut changes = changes_after(windows, now);
    changes.sort_unstable();
    Opening::Closed {
        next: changes.into_iter().find(|at| is_open(windows, *at)),
        freeze: freeze_at(windows, now),
    }
}

fn is_open(windows: &WindowsSettings, at: Timestamp) -> bool {
    freeze_at(windows, at).is_none() && is_in_window(windows, at)
}

fn freeze_at(windows: &WindowsSettings, at: Timestamp) -> Option<&Freeze> {
    windows.freezes.iter().find(|freeze| {
        let instants = freeze.instants(&windows.zone);
        instants.is_some_and(|(from, to)| from <= at && at < to)
    })
}

fn is_in_window(windows: &WindowsSettings, at: Timestamp) -> bool {
    if windows.open.is_empty() {
        return true;
    }
    let today = at.to_zoned(windows.zone.clone()).date();
    // A window that crosses midnight began yesterday.
    let days = [Some(today), today.yesterday().ok()];
    days.into_iter().flatten().any(|day| {
        windows.open.iter().any(|window| {
            let instants = window.on(day, &windows.zone);
            instants.is_some_and(|(from, to)| from <= at && at < to)
        })
    })
}

/// The moments after `now` at which a closed time can end: the beginnings of windows, and the ends of freezes.
///
/// Windows repeat each week. So after `now`, and after the end of each freeze, a little more than a week is enough.
fn changes_after(windows: &WindowsSettings, now: Timestamp) -> Vec<Timestamp> {
    let zone = &windows.zone;
    let freezes = windows.freezes.iter();
    let freeze_ends: Vec<Timestamp> = freezes
        .filter_map(|freeze| Some(freeze.instants(zone)?.1))
        .collect();
    let weeks = std::iter::once(now).chain(freeze_ends.iter().copied());
    let dates = weeks.flat_map(|begin| {
        let first = begin.to_zoned(zone.clone()).date();
        (0..=8).filter_map(move |days| first.checked_add(days.days()).ok())
    });
    let single = windows.open.iter().filter_map(Window::single_date);
    let dates: Vec<_> = dates.chain(single).collect();
    let begins = dates.into_iter().flat_map(|date| {
        let windows = windows.open.iter();
        windows.filter_map(move |window| Some(window.on(date, zone)?.0))
    });
    let all = begins.chain(freeze_ends);
    all.filter(|at| *at > now).collect()
}

#[cfg(test)]
mod tests;

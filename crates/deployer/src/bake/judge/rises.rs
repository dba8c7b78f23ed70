//! Judges endings that may be the clients' fault by their rise since the switch.

use crate::{
    config::BakeSettings,
    evidence::{
        difference::rise,
        endings::{Doubtful, Endings},
        request::Route,
        tally::Tally,
    },
};

/// Standard normal quantile for 99.9 % one-sided confidence: several kinds of endings are judged at every observation.
const Z_99_9_ONE_SIDED: f64 = 3.090;

/// Returns on which route a kind of ending has certainly risen by more than `bake.max_rise`, if there is one.
///
/// Judges only routes that the previous release answered, and only with `bake.min_requests` on both sides.
pub(super) fn find_rise(
    settings: &BakeSettings,
    before: &Endings,
    since: &Endings,
) -> Option<String> {
    before.answered_routes().find_map(|route| {
        let rises = |ending: &Doubtful| {
            let [before, since] = [before, since].map(|it| it.tally(route, *ending));
            before.requests.min(since.requests) >= settings.min_requests
                && rise(before, since, Z_99_9_ONE_SIDED).low > settings.max_rise
        };
        let ending = since.doubtful(route).find(rises)?;
        let tallies = [before, since].map(|it| it.tally(route, ending));
        Some(describe(route, ending, tallies, settings.max_rise))
    })
}

/// Returns whether any route can be judged.
pub(super) fn can_compare(settings: &BakeSettings, before: &Endings, since: &Endings) -> bool {
    before.answered_routes().any(|route| {
        let tallies = [before, since].map(|it| it.tally(route, Doubtful::GaveUp));
        tallies
            .iter()
            .all(|tally| tally.requests >= settings.min_requests)
    })
}

fn describe(route: &Route, ending: Doubtful, [before, since]: [Tally; 2], max_rise: f64) -> String {
    let what = match ending {
        Doubtful::GaveUp => "clients give up before an answer".to_owned(),
        Doubtful::Refused(status) => format!("it refuses requests with {status}"),
        Doubtful::Unlabeled => "its answers have no label".to_owned(),
    };
    let share = |tally: Tally| format!("{:.1} %", 100.0 * tally.error_rate());
    format!(
        "{what}: {route}, {} of {} requests since the switch, and {} of {} before (a rise of {:.1} points is allowed by bake.max_rise)",
        share(since),
        since.requests,
        share(before),
        before.requests,
        100.0 * max_rise
    )
}

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
        since.doubtful(route).find_map(|ending| {
            let tallies = comparable(settings, [before, since], route, ending)?;
            let low = rise(tallies[0], tallies[1], Z_99_9_ONE_SIDED).low;
            (low > settings.max_rise).then(|| describe(route, ending, tallies, settings.max_rise))
        })
    })
}

/// Returns whether any route can be judged.
pub(super) fn can_compare(settings: &BakeSettings, before: &Endings, since: &Endings) -> bool {
    let mut routes = before.answered_routes();
    routes.any(|route| comparable(settings, [before, since], route, Doubtful::GaveUp).is_some())
}

/// The requests on a route before and since the switch, and how many of them ended so; `None` if they are too few.
fn comparable(
    settings: &BakeSettings,
    both: [&Endings; 2],
    route: &Route,
    ending: Doubtful,
) -> Option<[Tally; 2]> {
    let tallies = both.map(|endings| endings.tally(route, ending));
    let enough = |tally: &Tally| tally.requests >= settings.min_requests;
    tallies.iter().all(enough).then_some(tallies)
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

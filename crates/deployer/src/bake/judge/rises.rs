//! Judges endings that may be no fault of the release by their rise since the switch.

use std::time::Duration;

use crate::{
    config::BakeSettings,
    evidence::{
        difference::{Share, rise},
        endings::{Doubtful, Endings, RouteEndings},
        request::Route,
        tally::Tally,
    },
};

/// What a rise is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suspect {
    /// Where.
    pub(super) route: Route,
    /// How requests ended.
    pub(super) ending: Doubtful,
}

/// Compares endings before and since the switch. Judges only routes that the previous release answered, and only with
/// `bake.min_requests` on both sides.
pub(super) struct Rises<'a> {
    pub(super) settings: &'a BakeSettings,
    /// The standard normal quantile of one test.
    pub(super) z: f64,
    pub(super) before: &'a Endings,
    pub(super) since: &'a Endings,
}

impl Rises<'_> {
    /// Returns the rises that certainly exceed their limit, since the switch or over the last window, and what to say
    /// about each.
    pub(super) fn certain(&self) -> impl Iterator<Item = (Suspect, String)> {
        self.suspects().filter_map(|(suspect, before, since)| {
            let rises = self.rises_certainly(suspect.ending, before, since, None)
                || self.rises_certainly(suspect.ending, before, since, Some(self.settings.window));
            let ending = suspect.ending;
            let tallies = [before.tally(ending), since.tally(ending)];
            rises.then(|| {
                let ended = since.describe(|ended| ending.includes(ended));
                let text = format!("{}; {ended}", self.describe(&suspect, tallies));
                (suspect, text)
            })
        })
    }

    /// Returns the rises that were measured above their limit since the switch, be it by chance.
    pub(super) fn measured(&self) -> impl Iterator<Item = (Suspect, String)> {
        self.suspects().filter_map(|(suspect, before, since)| {
            let ending = suspect.ending;
            let blocks: Vec<_> = tallies(since.by_second(ending));
            self.rises_throughout(ending, before, since, &blocks)
                .then(|| {
                    let tallies = [before, since].map(|endings| endings.tally(ending));
                    let text = self.describe(&suspect, tallies);
                    (suspect, text)
                })
        })
    }

    /// Returns whether any route can be judged.
    pub(super) fn can_compare(&self) -> bool {
        self.routes().next().is_some()
    }

    /// The routes that can be judged, with the endings before and since.
    fn routes(&self) -> impl Iterator<Item = (&Route, &RouteEndings, &RouteEndings)> {
        let answered = self.before.answered_routes();
        answered.filter_map(|(route, before)| {
            let since = self.since.on_route(route)?;
            [before, since]
                .iter()
                .all(|endings| self.is_enough(endings.tally(Doubtful::Useless)))
                .then_some((route, before, since))
        })
    }

    fn suspects(&self) -> impl Iterator<Item = (Suspect, &RouteEndings, &RouteEndings)> {
        self.routes().flat_map(|(route, before, since)| {
            since.doubtful().into_iter().map(move |ending| {
                let route = route.clone();
                (Suspect { route, ending }, before, since)
            })
        })
    }

    fn is_enough(&self, tally: Tally) -> bool {
        tally.requests >= self.settings.min_requests
    }

    fn limit(&self, ending: Doubtful) -> f64 {
        match ending {
            Doubtful::Useless => self.settings.max_error_rate,
            _ => self.settings.max_rise,
        }
    }

    /// Whether the share rose with certainty.
    fn rises_certainly(
        &self,
        ending: Doubtful,
        before: &RouteEndings,
        since: &RouteEndings,
        window: Option<Duration>,
    ) -> bool {
        let mut seconds: Vec<(i64, Tally)> = since.by_second(ending).collect();
        if let (Some(window), Some((last, _))) = (window, seconds.last().copied()) {
            let first = last - i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
            seconds.retain(|(second, _)| *second > first);
        }
        let blocks = tallies(seconds);
        let share_before = Share::of_blocks(&tallies(before.by_second(ending)));
        self.rises_throughout(ending, before, since, &blocks)
            && rise(share_before, Share::of_blocks(&blocks), self.z).low > self.limit(ending)
    }

    /// Whether the share was measured to rise in these seconds since the switch: in both halves of them, and not because
    /// of one client.
    fn rises_throughout(
        &self,
        ending: Doubtful,
        before: &RouteEndings,
        since: &RouteEndings,
        blocks: &[Tally],
    ) -> bool {
        let before = before.tally(ending);
        if ![before, sum(blocks)]
            .into_iter()
            .all(|tally| self.is_enough(tally))
        {
            return false;
        }
        let rose_to = |rate: f64| rate - before.error_rate() > self.limit(ending);
        // Clients are counted since the switch. Within a window, the share of the others is taken to be the same.
        let without_busiest = since.without_busiest_client(ending);
        let of_others = without_busiest.error_rate() / since.tally(ending).error_rate();
        let rate_of_others = sum(blocks).error_rate() * of_others;
        rose_to(sum(blocks).error_rate())
            && halves(blocks)
                .into_iter()
                .all(|half| half.requests > 0 && rose_to(half.error_rate()))
            && (!self.is_enough(without_busiest) || rose_to(rate_of_others))
    }

    fn describe(&self, suspect: &Suspect, [before, since]: [Tally; 2]) -> String {
        let what = match suspect.ending {
            Doubtful::FailedForClient => "clients receive failures".to_owned(),
            Doubtful::GaveUp => "clients give up before an answer".to_owned(),
            Doubtful::Refused(status) => format!("it refuses requests with {status}"),
            Doubtful::Unlabeled => "its answers have no label".to_owned(),
            Doubtful::Useless => "failed, refused, and abandoned requests together".to_owned(),
        };
        let setting = match suspect.ending {
            Doubtful::Useless => "bake.max_error_rate",
            _ => "bake.max_rise",
        };
        let share = |tally: Tally| format!("{:.1} %", 100.0 * tally.error_rate());
        format!(
            "{what}: {}, {} of {} requests since the switch, and {} of {} before (a rise of {:.1} points is allowed by {setting})",
            suspect.route,
            share(since),
            since.requests,
            share(before),
            before.requests,
            100.0 * self.limit(suspect.ending)
        )
    }
}

/// The tallies of these seconds.
fn tallies(seconds: impl IntoIterator<Item = (i64, Tally)>) -> Vec<Tally> {
    seconds.into_iter().map(|(_, tally)| tally).collect()
}

fn sum(blocks: &[Tally]) -> Tally {
    blocks.iter().copied().sum()
}

/// The first and the second half of the requests. A short burst is in one of them.
fn halves(blocks: &[Tally]) -> [Tally; 2] {
    let all = sum(blocks).requests;
    let mut halves = [Tally::default(); 2];
    for block in blocks {
        let second = usize::from(halves[0].requests * 2 >= all);
        halves[second].add(*block);
    }
    halves
}

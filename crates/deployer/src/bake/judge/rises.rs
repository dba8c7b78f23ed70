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
        let windows = [None, Some(self.settings.window)];
        self.suspects().filter_map(move |(suspect, before, since)| {
            let ending = suspect.ending;
            let mut windows = windows.iter();
            windows
                .any(|window| self.rose(ending, before, since, *window, self.z))
                .then(|| self.described(suspect, before, since))
        })
    }

    /// Returns the rises since the switch that exceed their limit, unless that is chance.
    pub(super) fn probable(&self) -> impl Iterator<Item = (Suspect, String)> {
        /// The standard normal quantile for 95 % one-sided confidence.
        const Z_95_ONE_SIDED: f64 = 1.645;

        self.suspects().filter_map(|(suspect, before, since)| {
            self.rose(suspect.ending, before, since, None, Z_95_ONE_SIDED)
                .then(|| self.described(suspect, before, since))
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

    /// Whether the share rose above its limit, with the confidence of `z`: in both halves of the time, and not because of
    /// one client.
    fn rose(
        &self,
        ending: Doubtful,
        before: &RouteEndings,
        since: &RouteEndings,
        window: Option<Duration>,
        z: f64,
    ) -> bool {
        let limit = self.limit(ending);
        let mut seconds: Vec<(i64, Tally)> = since.by_second(ending).collect();
        if let (Some(window), Some((last, _))) = (window, seconds.last().copied()) {
            let first = last - i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
            seconds.retain(|(second, _)| *second > first);
        }
        let blocks = tallies(seconds);
        let before_tally = before.tally(usual(ending));
        if ![before_tally, sum(&blocks)]
            .into_iter()
            .all(|tally| self.is_enough(tally))
        {
            return false;
        }
        let share_before = Share::of_blocks(&tallies(before.by_second(usual(ending))));
        let rose_to = |rate: f64| rate - before_tally.error_rate() > limit;
        // Clients are counted since the switch. Within a window, the share of the others is taken to be the same.
        let without_busiest = since.without_busiest_client(ending);
        let of_others = without_busiest.error_rate() / since.tally(ending).error_rate();
        let rate_of_others = sum(&blocks).error_rate() * of_others;
        rise(share_before, Share::of_blocks(&blocks), z).low > limit
            && halves(&blocks)
                .into_iter()
                .all(|half| half.requests > 0 && rose_to(half.error_rate()))
            && (!self.is_enough(without_busiest) || rose_to(rate_of_others))
    }

    fn described(
        &self,
        suspect: Suspect,
        before: &RouteEndings,
        since: &RouteEndings,
    ) -> (Suspect, String) {
        let ending = suspect.ending;
        let tallies = [before.tally(usual(ending)), since.tally(ending)];
        let ended = since.describe(|ended| ending.includes(ended));
        let text = format!("{}; {ended}", self.describe(&suspect, tallies));
        (suspect, text)
    }

    fn describe(&self, suspect: &Suspect, [before, since]: [Tally; 2]) -> String {
        let what = match suspect.ending {
            Doubtful::FailedForClient | Doubtful::BothFailed => {
                "clients receive failures".to_owned()
            }
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

/// What an ending since the switch is compared with. The candidate's own failures are held against its error rate. Before
/// the switch there may have been no standby that fails too.
fn usual(ending: Doubtful) -> Doubtful {
    match ending {
        Doubtful::BothFailed => Doubtful::FailedForClient,
        _ => ending,
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

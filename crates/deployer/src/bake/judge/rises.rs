//! Judges endings that may be no fault of the release by their rise since the switch.

use std::time::Duration;

use crate::{
    config::BakeSettings,
    evidence::{
        difference::{Share, rise},
        endings::{Endings, RouteEndings, Symptom},
        request::Route,
        tally::Tally,
    },
};

/// What a rise is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteSymptom {
    /// Where.
    pub(super) route: Route,
    /// How requests ended.
    pub(super) symptom: Symptom,
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
    pub(super) fn certain(&self) -> impl Iterator<Item = (RouteSymptom, String)> {
        let windows = [None, Some(self.settings.window)];
        self.symptoms().filter_map(move |(rise, before, since)| {
            let symptom = rise.symptom;
            let mut windows = windows.iter();
            windows
                .any(|window| self.rose(symptom, before, since, *window, self.z))
                .then(|| self.described(rise, before, since))
        })
    }

    /// Returns the rises since the switch that exceed their limit, unless that is chance.
    pub(super) fn probable(&self) -> impl Iterator<Item = (RouteSymptom, String)> {
        /// The standard normal quantile for 95 % one-sided confidence.
        const Z_95_ONE_SIDED: f64 = 1.645;

        self.symptoms().filter_map(|(rise, before, since)| {
            self.rose(rise.symptom, before, since, None, Z_95_ONE_SIDED)
                .then(|| self.described(rise, before, since))
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
                .all(|endings| self.is_enough(endings.tally(Symptom::NotServed)))
                .then_some((route, before, since))
        })
    }

    fn symptoms(&self) -> impl Iterator<Item = (RouteSymptom, &RouteEndings, &RouteEndings)> {
        self.routes().flat_map(|(route, before, since)| {
            since.symptoms().into_iter().map(move |symptom| {
                let route = route.clone();
                (RouteSymptom { route, symptom }, before, since)
            })
        })
    }

    fn is_enough(&self, tally: Tally) -> bool {
        tally.requests >= self.settings.min_requests
    }

    fn limit(&self, symptom: Symptom) -> f64 {
        match symptom {
            Symptom::NotServed => self.settings.max_error_rate,
            _ => self.settings.max_rise,
        }
    }

    /// Whether the share rose above its limit, with the confidence of `z`: in both halves of the time, and not because of
    /// one client.
    fn rose(
        &self,
        symptom: Symptom,
        before: &RouteEndings,
        since: &RouteEndings,
        window: Option<Duration>,
        z: f64,
    ) -> bool {
        let limit = self.limit(symptom);
        let mut seconds: Vec<(i64, Tally)> = since.by_second(symptom).collect();
        if let (Some(window), Some((last, _))) = (window, seconds.last().copied()) {
            let first = last - i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
            seconds.retain(|(second, _)| *second > first);
        }
        let blocks = tallies(seconds);
        let before_tally = before.tally(usual(symptom));
        if ![before_tally, sum(&blocks)]
            .into_iter()
            .all(|tally| self.is_enough(tally))
        {
            return false;
        }
        let share_before = Share::of_blocks(&tallies(before.by_second(usual(symptom))));
        let rose_to = |rate: f64| rate - before_tally.error_rate() > limit;
        // Clients are counted since the switch. Within a window, the share of the others is taken to be the same.
        let without_busiest = since.without_busiest_client(symptom);
        let of_others = without_busiest.error_rate() / since.tally(symptom).error_rate();
        let rate_of_others = sum(&blocks).error_rate() * of_others;
        rise(share_before, Share::of_blocks(&blocks), z).low > limit
            && halves(&blocks)
                .into_iter()
                .all(|half| half.requests > 0 && rose_to(half.error_rate()))
            && (!self.is_enough(without_busiest) || rose_to(rate_of_others))
    }

    fn described(
        &self,
        rise: RouteSymptom,
        before: &RouteEndings,
        since: &RouteEndings,
    ) -> (RouteSymptom, String) {
        let symptom = rise.symptom;
        let tallies = [before.tally(usual(symptom)), since.tally(symptom)];
        let ended = since.describe(|ended| symptom.includes(ended));
        let text = format!("{}; {ended}", self.describe(&rise, tallies));
        (rise, text)
    }

    fn describe(&self, rise: &RouteSymptom, [before, since]: [Tally; 2]) -> String {
        let what = match rise.symptom {
            Symptom::FailedForClient | Symptom::BothFailed => "clients receive failures".to_owned(),
            Symptom::GaveUp => "clients give up before an answer".to_owned(),
            Symptom::Refused(status) => format!("it refuses requests with {status}"),
            Symptom::Unlabeled => "its answers have no label".to_owned(),
            Symptom::NotServed => "failed, refused, and abandoned requests together".to_owned(),
        };
        let setting = match rise.symptom {
            Symptom::NotServed => "bake.max_error_rate",
            _ => "bake.max_rise",
        };
        let share = |tally: Tally| format!("{:.1} %", 100.0 * tally.error_rate());
        format!(
            "{what}: {}, {} of {} requests since the switch, and {} of {} before (a rise of {:.1} points is allowed by {setting})",
            rise.route,
            share(since),
            since.requests,
            share(before),
            before.requests,
            100.0 * self.limit(rise.symptom)
        )
    }
}

/// What an ending since the switch is compared with. The candidate's own failures are held against its error rate. Before
/// the switch there may have been no standby that fails too.
fn usual(symptom: Symptom) -> Symptom {
    match symptom {
        Symptom::BothFailed => Symptom::FailedForClient,
        _ => symptom,
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

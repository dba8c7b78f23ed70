//! Asks the previous release before a rise is held against the candidate.
//!
//! The previous release is warm on the idle color. For a few seconds it gets a copy of each client request. What it
//! refuses or delays now too is not the candidate's fault: clients, or the machine, have changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::{
    bake::judge::rises::RouteSymptom,
    evidence::{
        endings::Symptom,
        latency::{Latencies, LatencyLimit},
        request::{Ending, Request},
        statistics::{Z_99, paired_difference},
    },
};

/// How long copies are sent for one question, if there are [`MIN_PAIRS`] then.
const USUAL_QUESTION: Duration = Duration::from_secs(5);
/// How long copies are sent at most, on a quiet service.
const MAX_QUESTION: Duration = Duration::from_secs(25);
/// With fewer pairs the answer is unknown, and the statistics before the switch decide alone.
const MIN_PAIRS: usize = 20;
/// So many pairs decide at once.
const DECISIVE_PAIRS: usize = 500;
/// How long a regression counts as shared after the previous release showed it too.
const SHARED_FOR: Duration = Duration::from_secs(10);
/// More requests are not kept for one question.
const MAX_KEPT: usize = 20_000;

/// What may be worse than before the switch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Regression {
    /// More requests end in this way.
    Rise(RouteSymptom),
    /// Clients wait longer.
    Latency,
}

impl Regression {
    /// Whether copies can tell. The client of a copy never gives up, and the log does not show what a label should be.
    fn can_be_asked(&self) -> bool {
        match self {
            Self::Rise(rise) => !matches!(
                rise.symptom,
                Symptom::FailedForClient | Symptom::BothFailed | Symptom::Unlabeled
            ),
            Self::Latency => true,
        }
    }

    fn is_about(&self, request: &Request) -> bool {
        match self {
            Self::Rise(rise) => rise.route == request.route,
            Self::Latency => true,
        }
    }
}

/// What the previous release shows of a regression of the candidate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PreviousComparison {
    /// The previous release is being asked.
    Pending,
    /// The previous release does the same now.
    Shared,
    /// The previous release does not do it; this is what it did instead. Empty if it was not asked.
    Confirmed(String),
}

/// The questions to the previous release.
#[derive(Debug)]
pub(super) struct PreviousRelease {
    can_be_asked: bool,
    limit: LatencyLimit,
    max_rise: f64,
    question: Option<Question>,
    /// Until when.
    shared: BTreeMap<Regression, Duration>,
    confirmed: BTreeMap<Regression, String>,
    /// What the previous release said, for the report.
    answers: BTreeSet<String>,
}

/// A question that is being asked.
#[derive(Debug)]
struct Question {
    regression: Regression,
    since: Duration,
    originals: HashMap<String, Request>,
    copies: HashMap<String, Request>,
}

impl PreviousRelease {
    pub(super) fn new(can_be_asked: bool, limit: LatencyLimit, max_rise: f64) -> Self {
        Self {
            can_be_asked,
            limit,
            max_rise,
            question: None,
            shared: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            answers: BTreeSet::new(),
        }
    }

    /// Whether a question is open, so that copies are needed.
    pub(super) fn is_being_asked(&self) -> bool {
        self.question.is_some()
    }

    /// Gives up an open question, and asks no other one.
    pub(super) fn cannot_be_asked(&mut self) {
        self.can_be_asked = false;
        self.question = None;
    }

    /// What the previous release said.
    pub(super) fn answers(&self) -> impl Iterator<Item = &String> {
        self.answers.iter()
    }

    /// Adds requests of clients, and their copies, since the last call. Decides an open question if that is possible.
    pub(super) fn record(&mut self, originals: Vec<Request>, copies: Vec<Request>, now: Duration) {
        let Some(question) = &mut self.question else {
            return;
        };
        question.add(originals, copies);
        let asked_for = now.saturating_sub(question.since);
        let enough = if asked_for < USUAL_QUESTION {
            DECISIVE_PAIRS
        } else {
            MIN_PAIRS
        };
        if asked_for < MAX_QUESTION && question.pairs().count() < enough {
            return;
        }
        if let Some(question) = self.question.take() {
            let answer = question.answer(self.limit, self.max_rise);
            self.answers.insert(answer.text.clone());
            if answer.is_shared {
                self.shared.insert(question.regression, now + SHARED_FOR);
            } else {
                self.confirmed.insert(question.regression, answer.text);
            }
        }
    }

    /// Compares a regression with the previous release at this time. Asks the previous release if it was not asked yet.
    pub(super) fn compare(&mut self, regression: &Regression, now: Duration) -> PreviousComparison {
        if let Some(text) = self.confirmed.get(regression) {
            return PreviousComparison::Confirmed(text.clone());
        }
        if self.is_shared(regression, now) {
            return PreviousComparison::Shared;
        }
        if !self.can_be_asked || !regression.can_be_asked() {
            return PreviousComparison::Confirmed(String::new());
        }
        if self.question.is_none() {
            self.question = Some(Question {
                regression: regression.clone(),
                since: now,
                originals: HashMap::new(),
                copies: HashMap::new(),
            });
        }
        PreviousComparison::Pending
    }

    /// Whether the previous release did the same shortly before. If refusals are shared, so is their sum.
    fn is_shared(&self, regression: &Regression, now: Duration) -> bool {
        self.shared.iter().any(|(shared, until)| {
            now < *until
                && match (shared, regression) {
                    (Regression::Rise(shared), Regression::Rise(rise)) => {
                        shared.route == rise.route
                            && (shared.symptom == rise.symptom
                                || rise.symptom == Symptom::NotServed)
                    }
                    _ => shared == regression,
                }
        })
    }
}

/// What the previous release said.
struct Answer {
    is_shared: bool,
    text: String,
}

impl Question {
    fn add(&mut self, originals: Vec<Request>, copies: Vec<Request>) {
        for (requests, kept) in [(originals, &mut self.originals), (copies, &mut self.copies)] {
            for request in requests {
                if kept.len() < MAX_KEPT && !request.by_deployer {
                    kept.insert(request.id.clone(), request);
                }
            }
        }
    }

    /// Each client request that the regression is about, with its copy.
    fn pairs(&self) -> impl Iterator<Item = (&Request, &Request)> {
        self.originals
            .iter()
            .filter(|(_, original)| self.regression.is_about(original))
            .filter_map(|(id, original)| Some((original, self.copies.get(id)?)))
    }

    fn answer(&self, limit: LatencyLimit, max_rise: f64) -> Answer {
        match &self.regression {
            Regression::Rise(rise) => self.compare_endings(rise, max_rise),
            Regression::Latency => self.compare_latencies(limit),
        }
    }

    fn compare_endings(&self, rise: &RouteSymptom, max_rise: f64) -> Answer {
        let (mut pairs, mut only_candidate, mut only_previous, mut both) = (0, 0, 0, 0);
        for (original, copy) in self.pairs() {
            pairs += 1;
            match (
                ended_so(original, rise.symptom),
                copy_ended_so(original, copy, rise.symptom),
            ) {
                (true, true) => both += 1,
                (true, false) => only_candidate += 1,
                (false, true) => only_previous += 1,
                (false, false) => {}
            }
        }
        if pairs < MIN_PAIRS as u64 {
            return Answer::unknown(pairs);
        }
        let difference = paired_difference(only_candidate, only_previous, pairs);
        let measured = (only_candidate as f64 - only_previous as f64) / pairs as f64;
        Answer {
            // Few pairs prove nothing: then the statistics before the switch hold.
            is_shared: difference.low <= 0.0 && measured <= max_rise,
            text: format!(
                "the previous release got copies of {pairs} of these requests, and did the same with {} of them; the candidate did so with {}",
                both + only_previous,
                both + only_candidate
            ),
        }
    }

    fn compare_latencies(&self, limit: LatencyLimit) -> Answer {
        let (mut candidate, mut previous) = (Latencies::default(), Latencies::default());
        for (original, copy) in self.pairs() {
            // nginx reads only the head of a copy's answer. A copy that failed fast is not fast.
            if let (Some(ours), Some(theirs)) = (to_head(original), to_head(copy)) {
                candidate.record(ours);
                previous.record(theirs);
            }
        }
        match limit.compare_tails(&candidate, &previous, Z_99) {
            None => Answer::unknown(candidate.count()),
            Some(compared) => Answer {
                is_shared: !compared.exceeds,
                text: format!(
                    "with copies of {} of these requests at the same time: {compared}",
                    candidate.count()
                ),
            },
        }
    }
}

impl Answer {
    fn unknown(pairs: u64) -> Self {
        Self {
            is_shared: false,
            text: format!("the previous release was asked, and answered only {pairs} copies"),
        }
    }
}

/// The time to the head of an answer; `None` without a good answer.
fn to_head(request: &Request) -> Option<Duration> {
    let first = request.attempts.first()?;
    first
        .to_head
        .filter(|_| first.status.is_some_and(|status| status < 400))
}

/// Whether a client's request ended so.
fn ended_so(request: &Request, symptom: Symptom) -> bool {
    let Some(ended) = request.wanted.and_then(|color| request.ending_for(color)) else {
        return false;
    };
    symptom.includes(ended)
}

/// Whether the copy of a client's request ended in the same way, or would have.
fn copy_ended_so(original: &Request, copy: &Request, symptom: Symptom) -> bool {
    // The client gave up after this time.
    let timed_out = copy.attempts.first().map(|attempt| attempt.status) == Some(Some(504));
    let waited = copy.took() >= original.took() || timed_out;
    let late = || ended_so(original, Symptom::GaveUp) && waited;
    let refused = || {
        let ended = copy.wanted.and_then(|color| copy.ending_for(color));
        matches!(ended, Some(Ending::Refused(_)))
    };
    match symptom {
        Symptom::GaveUp => late(),
        Symptom::Refused(_) => refused(),
        Symptom::NotServed => late() || refused() || ended_so(copy, symptom),
        Symptom::FailedForClient | Symptom::BothFailed | Symptom::Unlabeled => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        color::Color,
        evidence::request::{answered_by, predict},
    };

    const LIMIT: LatencyLimit = LatencyLimit {
        max_ratio: 2.0,
        negligible: Duration::from_millis(5),
    };

    fn rise_of(symptom: Symptom) -> Regression {
        let route = predict();
        Regression::Rise(RouteSymptom { route, symptom })
    }

    /// Requests with these statuses, answered by this color after `milliseconds`.
    fn requests(color: Color, statuses: &[u16], milliseconds: u64) -> Vec<Request> {
        let requests = statuses.iter().enumerate().map(|(number, status)| {
            let mut request = answered_by(color, *status);
            request.id = number.to_string();
            let took = Some(Duration::from_millis(milliseconds));
            request.attempts[0].to_head = took;
            request.attempts[0].to_end = took;
            if *status == 499 {
                request.attempts[0].status = None;
                request.attempts[0].to_head = None;
            }
            request
        });
        requests.collect()
    }

    /// The ruling after the candidate and the previous release gave these answers.
    fn compared(
        regression: &Regression,
        originals: Vec<Request>,
        copies: Vec<Request>,
    ) -> PreviousComparison {
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        assert_eq!(
            previous.compare(regression, Duration::ZERO),
            PreviousComparison::Pending
        );
        assert!(previous.is_being_asked());
        previous.record(originals, copies, Duration::from_secs(1));
        previous.record(Vec::new(), Vec::new(), MAX_QUESTION);
        assert!(!previous.is_being_asked());
        previous.compare(regression, MAX_QUESTION)
    }

    fn is_confirmed(comparison: &PreviousComparison) -> bool {
        matches!(comparison, PreviousComparison::Confirmed(_))
    }

    #[test]
    fn refusals_of_both_releases_are_excused() {
        let refused = rise_of(Symptom::Refused(422));
        let half = [200, 422].repeat(50);
        let blue = |statuses: &[u16]| requests(Color::Blue, statuses, 2);
        let green = |statuses: &[u16]| requests(Color::Green, statuses, 2);
        assert_eq!(
            compared(&refused, green(&half), blue(&half)),
            PreviousComparison::Shared
        );
        // Another status is a refusal, too.
        let others = [200, 400].repeat(50);
        assert_eq!(
            compared(&refused, green(&half), blue(&others)),
            PreviousComparison::Shared
        );
        let answered = [200; 100];
        assert!(is_confirmed(&compared(
            &refused,
            green(&half),
            blue(&answered)
        )));
        let together = rise_of(Symptom::NotServed);
        assert_eq!(
            compared(&together, green(&half), blue(&half)),
            PreviousComparison::Shared
        );
        assert!(is_confirmed(&compared(
            &together,
            green(&half),
            blue(&answered)
        )));
    }

    #[test]
    fn waits_that_the_previous_release_needs_too_are_excused() {
        let gave_up = rise_of(Symptom::GaveUp);
        let originals = || requests(Color::Green, &[200, 499].repeat(50), 500);
        let copies = |milliseconds| requests(Color::Blue, &[200; 100], milliseconds);
        assert_eq!(
            compared(&gave_up, originals(), copies(600)),
            PreviousComparison::Shared
        );
        assert!(is_confirmed(&compared(&gave_up, originals(), copies(20))));
        let slow = || requests(Color::Green, &[200; 200], 100);
        let regression = Regression::Latency;
        let same = requests(Color::Blue, &[200; 200], 90);
        assert_eq!(
            compared(&regression, slow(), same),
            PreviousComparison::Shared
        );
        let fast = requests(Color::Blue, &[200; 200], 20);
        assert!(is_confirmed(&compared(&regression, slow(), fast)));
    }

    #[test]
    fn copies_that_prove_nothing_excuse_nothing() {
        let refused = rise_of(Symptom::Refused(422));
        // Three of 25: too few for a proof, and far more than the previous release.
        let statuses: Vec<u16> = (0..25)
            .map(|number| if number < 3 { 422 } else { 200 })
            .collect();
        let originals = requests(Color::Green, &statuses, 2);
        let copies = requests(Color::Blue, &[200; 25], 2);
        assert!(is_confirmed(&compared(&refused, originals, copies)));
    }

    #[test]
    fn copy_that_times_out_is_as_late_as_the_original() {
        let originals = requests(Color::Green, &[200, 499].repeat(50), 5_000);
        let copies = requests(Color::Blue, &[504; 100], 2_000);
        let gave_up = rise_of(Symptom::GaveUp);
        assert_eq!(
            compared(&gave_up, originals, copies),
            PreviousComparison::Shared
        );
    }

    #[test]
    fn few_copies_and_unasked_releases_excuse_nothing() {
        let refused = rise_of(Symptom::Refused(422));
        let few = requests(Color::Green, &[422; 10], 2);
        assert!(is_confirmed(&compared(&refused, few.clone(), few)));
        let mut previous = PreviousRelease::new(false, LIMIT, 0.02);
        assert!(is_confirmed(&previous.compare(&refused, Duration::ZERO)));
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        let unlabeled = rise_of(Symptom::Unlabeled);
        assert!(is_confirmed(&previous.compare(&unlabeled, Duration::ZERO)));
        assert_eq!(
            previous.compare(&refused, Duration::ZERO),
            PreviousComparison::Pending
        );
        previous.cannot_be_asked();
        assert!(!previous.is_being_asked());
        assert!(is_confirmed(&previous.compare(&refused, Duration::ZERO)));
    }

    #[test]
    fn quiet_service_is_asked_until_there_are_enough_pairs() {
        let refused = rise_of(Symptom::Refused(422));
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        let seconds = Duration::from_secs;
        previous.compare(&refused, Duration::ZERO);
        let statuses = [422; MIN_PAIRS];
        let (originals, copies) = (
            requests(Color::Green, &statuses, 2),
            requests(Color::Blue, &statuses, 2),
        );
        let (last_original, last_copy) = (originals[0].clone(), copies[0].clone());
        previous.record(originals[1..].to_vec(), copies[1..].to_vec(), seconds(6));
        assert!(previous.is_being_asked(), "one pair is missing");
        previous.record(vec![last_original], vec![last_copy], seconds(12));
        assert_eq!(
            previous.compare(&refused, seconds(12)),
            PreviousComparison::Shared
        );
    }

    #[test]
    fn excuse_expires_and_covers_the_sum_of_endings() {
        let refused = rise_of(Symptom::Refused(422));
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        previous.compare(&refused, Duration::ZERO);
        let half = [200, 422].repeat(50);
        let (originals, copies) = (
            requests(Color::Green, &half, 2),
            requests(Color::Blue, &half, 2),
        );
        previous.record(originals, copies, MAX_QUESTION);
        let at = |seconds| MAX_QUESTION + Duration::from_secs(seconds);
        assert!(previous.is_shared(&rise_of(Symptom::NotServed), at(1)));
        assert!(!previous.is_shared(&rise_of(Symptom::GaveUp), at(1)));
        assert_eq!(
            previous.compare(&refused, at(9)),
            PreviousComparison::Shared
        );
        assert_eq!(
            previous.compare(&refused, at(11)),
            PreviousComparison::Pending
        );
    }
}

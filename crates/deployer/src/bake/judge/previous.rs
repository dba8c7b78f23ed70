//! Asks the previous release before a rise is held against the candidate.
//!
//! The previous release is warm on the idle color. For a few seconds it gets a copy of each client request. What it
//! refuses or delays now too is not the candidate's fault: clients, or the machine, have changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::{
    bake::judge::rises::Suspect,
    evidence::{
        endings::Doubtful,
        latency::{Latencies, LatencyLimit},
        request::{Ending, Request},
        statistics::{Z_99, paired_difference},
    },
};

/// How long copies are sent for one question.
const LONGEST: Duration = Duration::from_secs(5);
/// With fewer pairs the answer is unknown, and the statistics before the switch decide alone.
const ENOUGH: u64 = 20;
/// So many pairs decide at once.
const PLENTY: usize = 500;
/// How long an answer of the previous release excuses the candidate.
const EXCUSED: Duration = Duration::from_secs(10);
/// More requests are not kept for one question.
const MOST: usize = 20_000;

/// What the candidate is suspected of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Accusation {
    /// More requests end in this way.
    Rise(Suspect),
    /// Clients wait longer.
    Latency,
}

impl Accusation {
    /// Whether copies can tell. The client of a copy never gives up, and the log does not show what a label should be.
    fn can_be_asked(&self) -> bool {
        match self {
            Self::Rise(suspect) => !matches!(
                suspect.ending,
                Doubtful::FailedForClient | Doubtful::BothFailed | Doubtful::Unlabeled
            ),
            Self::Latency => true,
        }
    }
}

/// What follows from an accusation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// The previous release is being asked.
    Wait,
    /// The previous release does the same now.
    Excused,
    /// It holds; this is what the previous release did.
    Holds(String),
}

/// The questions to the previous release.
#[derive(Debug)]
pub(super) struct PreviousRelease {
    can_be_asked: bool,
    limit: LatencyLimit,
    max_rise: f64,
    question: Option<Question>,
    /// Until when.
    excused: BTreeMap<Accusation, Duration>,
    confirmed: BTreeMap<Accusation, String>,
    /// What the previous release said, for the report.
    answers: BTreeSet<String>,
}

/// A question that is being asked.
#[derive(Debug)]
struct Question {
    accusation: Accusation,
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
            excused: BTreeMap::new(),
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
        if now < question.since + LONGEST && question.pairs().count() < PLENTY {
            return;
        }
        if let Some(question) = self.question.take() {
            let answer = question.answer(self.limit, self.max_rise);
            self.answers.insert(answer.text.clone());
            if answer.excuses {
                self.excused.insert(question.accusation, now + EXCUSED);
            } else {
                self.confirmed.insert(question.accusation, answer.text);
            }
        }
    }

    /// Returns what follows from an accusation at this time. Asks the previous release if it was not asked yet.
    pub(super) fn rule(&mut self, accusation: &Accusation, now: Duration) -> Ruling {
        if let Some(text) = self.confirmed.get(accusation) {
            return Ruling::Holds(text.clone());
        }
        if self.is_excused(accusation, now) {
            return Ruling::Excused;
        }
        if !self.can_be_asked || !accusation.can_be_asked() {
            return Ruling::Holds(String::new());
        }
        if self.question.is_none() {
            self.question = Some(Question {
                accusation: accusation.clone(),
                since: now,
                originals: HashMap::new(),
                copies: HashMap::new(),
            });
        }
        Ruling::Wait
    }

    /// Whether the previous release did the same shortly before. What excuses refusals excuses their sum.
    fn is_excused(&self, accusation: &Accusation, now: Duration) -> bool {
        self.excused.iter().any(|(excused, until)| {
            now < *until
                && match (excused, accusation) {
                    (Accusation::Rise(excused), Accusation::Rise(suspect)) => {
                        excused.route == suspect.route
                            && (excused.ending == suspect.ending
                                || suspect.ending == Doubtful::Useless)
                    }
                    _ => excused == accusation,
                }
        })
    }
}

/// What the previous release said.
struct Answer {
    excuses: bool,
    text: String,
}

impl Question {
    fn add(&mut self, originals: Vec<Request>, copies: Vec<Request>) {
        for (requests, kept) in [(originals, &mut self.originals), (copies, &mut self.copies)] {
            for request in requests {
                if kept.len() < MOST && !request.by_deployer {
                    kept.insert(request.id.clone(), request);
                }
            }
        }
    }

    /// Each client request with its copy.
    fn pairs(&self) -> impl Iterator<Item = (&Request, &Request)> {
        self.originals
            .iter()
            .filter_map(|(id, original)| Some((original, self.copies.get(id)?)))
    }

    fn answer(&self, limit: LatencyLimit, max_rise: f64) -> Answer {
        match &self.accusation {
            Accusation::Rise(suspect) => self.compare_endings(suspect, max_rise),
            Accusation::Latency => self.compare_latencies(limit),
        }
    }

    fn compare_endings(&self, suspect: &Suspect, max_rise: f64) -> Answer {
        let (mut pairs, mut only_candidate, mut only_previous, mut both) = (0, 0, 0, 0);
        for (original, copy) in self.pairs() {
            if original.route != suspect.route {
                continue;
            }
            pairs += 1;
            match (
                ended_so(original, suspect.ending),
                copy_ended_so(original, copy, suspect.ending),
            ) {
                (true, true) => both += 1,
                (true, false) => only_candidate += 1,
                (false, true) => only_previous += 1,
                (false, false) => {}
            }
        }
        if pairs < ENOUGH {
            return Answer::unknown(pairs);
        }
        let difference = paired_difference(only_candidate, only_previous, pairs);
        let measured = (only_candidate as f64 - only_previous as f64) / pairs as f64;
        Answer {
            // Few pairs prove nothing: then the statistics before the switch hold.
            excuses: difference.low <= 0.0 && measured <= max_rise,
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
                excuses: !compared.exceeds,
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
            excuses: false,
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
fn ended_so(request: &Request, ending: Doubtful) -> bool {
    let Some(ended) = request.wanted.and_then(|color| request.ending_for(color)) else {
        return false;
    };
    ending.includes(ended)
}

/// Whether the copy of a client's request ended in the same way, or would have.
fn copy_ended_so(original: &Request, copy: &Request, ending: Doubtful) -> bool {
    // The client gave up after this time.
    let timed_out = copy.attempts.first().map(|attempt| attempt.status) == Some(Some(504));
    let waited = copy.took() >= original.took() || timed_out;
    let late = || ended_so(original, Doubtful::GaveUp) && waited;
    let refused = || {
        let ended = copy.wanted.and_then(|color| copy.ending_for(color));
        matches!(ended, Some(Ending::Refused(_)))
    };
    match ending {
        Doubtful::GaveUp => late(),
        Doubtful::Refused(_) => refused(),
        Doubtful::Useless => late() || refused() || ended_so(copy, ending),
        Doubtful::FailedForClient | Doubtful::BothFailed | Doubtful::Unlabeled => false,
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

    fn rise_of(ending: Doubtful) -> Accusation {
        let route = predict();
        Accusation::Rise(Suspect { route, ending })
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
    fn ruling(accusation: &Accusation, originals: Vec<Request>, copies: Vec<Request>) -> Ruling {
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        assert_eq!(previous.rule(accusation, Duration::ZERO), Ruling::Wait);
        assert!(previous.is_being_asked());
        previous.record(originals, copies, Duration::from_secs(1));
        previous.record(Vec::new(), Vec::new(), LONGEST);
        assert!(!previous.is_being_asked());
        previous.rule(accusation, LONGEST)
    }

    fn holds(ruling: &Ruling) -> bool {
        matches!(ruling, Ruling::Holds(_))
    }

    #[test]
    fn refusals_of_both_releases_are_excused() {
        let refused = rise_of(Doubtful::Refused(422));
        let half = [200, 422].repeat(50);
        let blue = |statuses: &[u16]| requests(Color::Blue, statuses, 2);
        let green = |statuses: &[u16]| requests(Color::Green, statuses, 2);
        assert_eq!(ruling(&refused, green(&half), blue(&half)), Ruling::Excused);
        // Another status is a refusal, too.
        let others = [200, 400].repeat(50);
        assert_eq!(
            ruling(&refused, green(&half), blue(&others)),
            Ruling::Excused
        );
        let answered = [200; 100];
        assert!(holds(&ruling(&refused, green(&half), blue(&answered))));
        let together = rise_of(Doubtful::Useless);
        assert_eq!(
            ruling(&together, green(&half), blue(&half)),
            Ruling::Excused
        );
        assert!(holds(&ruling(&together, green(&half), blue(&answered))));
    }

    #[test]
    fn waits_that_the_previous_release_needs_too_are_excused() {
        let gave_up = rise_of(Doubtful::GaveUp);
        let originals = || requests(Color::Green, &[200, 499].repeat(50), 500);
        let copies = |milliseconds| requests(Color::Blue, &[200; 100], milliseconds);
        assert_eq!(ruling(&gave_up, originals(), copies(600)), Ruling::Excused);
        assert!(holds(&ruling(&gave_up, originals(), copies(20))));
        let slow = || requests(Color::Green, &[200; 200], 100);
        let accusation = Accusation::Latency;
        let same = requests(Color::Blue, &[200; 200], 90);
        assert_eq!(ruling(&accusation, slow(), same), Ruling::Excused);
        let fast = requests(Color::Blue, &[200; 200], 20);
        assert!(holds(&ruling(&accusation, slow(), fast)));
    }

    #[test]
    fn copies_that_prove_nothing_excuse_nothing() {
        let refused = rise_of(Doubtful::Refused(422));
        // Three of 25: too few for a proof, and far more than the previous release.
        let statuses: Vec<u16> = (0..25)
            .map(|number| if number < 3 { 422 } else { 200 })
            .collect();
        let originals = requests(Color::Green, &statuses, 2);
        let copies = requests(Color::Blue, &[200; 25], 2);
        assert!(holds(&ruling(&refused, originals, copies)));
    }

    #[test]
    fn copy_that_times_out_is_as_late_as_the_original() {
        let originals = requests(Color::Green, &[200, 499].repeat(50), 5_000);
        let copies = requests(Color::Blue, &[504; 100], 2_000);
        let gave_up = rise_of(Doubtful::GaveUp);
        assert_eq!(ruling(&gave_up, originals, copies), Ruling::Excused);
    }

    #[test]
    fn few_copies_and_unasked_releases_excuse_nothing() {
        let refused = rise_of(Doubtful::Refused(422));
        let few = requests(Color::Green, &[422; 10], 2);
        assert!(holds(&ruling(&refused, few.clone(), few)));
        let mut previous = PreviousRelease::new(false, LIMIT, 0.02);
        assert!(holds(&previous.rule(&refused, Duration::ZERO)));
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        let unlabeled = rise_of(Doubtful::Unlabeled);
        assert!(holds(&previous.rule(&unlabeled, Duration::ZERO)));
        assert_eq!(previous.rule(&refused, Duration::ZERO), Ruling::Wait);
        previous.cannot_be_asked();
        assert!(!previous.is_being_asked());
        assert!(holds(&previous.rule(&refused, Duration::ZERO)));
    }

    #[test]
    fn excuse_expires_and_covers_the_sum_of_endings() {
        let refused = rise_of(Doubtful::Refused(422));
        let mut previous = PreviousRelease::new(true, LIMIT, 0.02);
        previous.rule(&refused, Duration::ZERO);
        let half = [200, 422].repeat(50);
        let (originals, copies) = (
            requests(Color::Green, &half, 2),
            requests(Color::Blue, &half, 2),
        );
        previous.record(originals, copies, LONGEST);
        let at = |seconds| LONGEST + Duration::from_secs(seconds);
        assert!(previous.is_excused(&rise_of(Doubtful::Useless), at(1)));
        assert!(!previous.is_excused(&rise_of(Doubtful::GaveUp), at(1)));
        assert_eq!(previous.rule(&refused, at(9)), Ruling::Excused);
        assert_eq!(previous.rule(&refused, at(11)), Ruling::Wait);
    }
}

//! The deployer's own requests through the router, which replace the traffic that a quiet service lacks.

use std::{collections::VecDeque, time::Duration};

use crate::{color::Color, evidence::request::Request, ports::Target};

/// The most own requests that may be unanswered at a time.
pub(super) const MOST_UNANSWERED: u32 = 64;

/// Chooses the path of own requests, and checks that the router's log shows them.
///
/// The log says which color answered. Without it, an answer on the clients' path may come from the standby, so
/// own requests take a path on which only the candidate answers.
#[derive(Debug, Default)]
pub struct OwnRequests {
    /// The answers on the clients' path that are not in the log yet.
    awaited: VecDeque<Awaited>,
    /// How many requests were logged before their answers were recorded.
    early: usize,
    /// How many requests the log shows as not answered by the candidate, and whose answers were not wrong so far.
    by_others: usize,
    /// How many requests have no answer yet.
    unanswered: usize,
    blind: bool,
    sent: usize,
    /// The wrong answers that the candidate itself gave.
    wrong: WrongAnswers,
    /// How many of them the log shows as good, since they were last taken.
    logged_wrong: u64,
}

/// An answer on the clients' path whose request is not in the log yet.
#[derive(Debug)]
struct Awaited {
    at: Duration,
    /// Why the answer is wrong, if it is and the candidate gave it.
    wrong: Option<String>,
}

/// Answers that differ from what the candidate answered before.
#[derive(Debug, Default)]
pub struct WrongAnswers {
    /// How many there were.
    pub count: u64,
    /// The last one.
    pub last: String,
}

impl OwnRequests {
    /// nginx flushes its log within 500 ms.
    const PATIENCE: Duration = Duration::from_secs(3);

    /// Returns the recipient of the next own request.
    #[must_use]
    pub fn target(&self, candidate: Color) -> Target {
        if self.blind {
            Target::ThroughRouter(candidate)
        } else {
            Target::Public
        }
    }

    /// Returns how many requests to send if `missing` ones are missing in the log. Requests on their way are not
    /// missing.
    #[must_use]
    pub fn to_send(&self, missing: usize) -> usize {
        missing
            .saturating_sub(self.unanswered + self.awaited.len())
            .min((MOST_UNANSWERED as usize).saturating_sub(self.unanswered))
    }

    /// Records that one request was sent.
    pub fn sent(&mut self) {
        self.sent += 1;
        self.unanswered += 1;
    }

    /// Records that a request on the clients' path ended; `wrong` says why its answer is wrong, if it is. The log
    /// tells whether the candidate gave it.
    pub fn ended_on_clients_path(&mut self, at: Duration, wrong: Option<String>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.early > 0 {
            self.early -= 1;
            self.match_answer(wrong);
        } else if !self.blind {
            self.awaited.push_back(Awaited { at, wrong });
        }
    }

    /// Records that a request ended on the path on which only the candidate answers.
    pub fn ended_at_candidate(&mut self, wrong: Option<String>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if let Some(wrong) = wrong {
            self.record_wrong(wrong);
        }
    }

    /// Records a wrong answer of the candidate.
    pub fn record_wrong(&mut self, wrong: String) {
        self.wrong.count += 1;
        self.wrong.last = wrong;
    }

    /// The number of own requests so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sent
    }

    /// The wrong answers so far.
    #[must_use]
    pub fn wrong(&self) -> &WrongAnswers {
        &self.wrong
    }

    /// Returns how many wrong answers the log showed as good since the last call.
    pub fn take_logged_wrong(&mut self) -> u64 {
        std::mem::take(&mut self.logged_wrong)
    }

    /// Records that the log cannot be read. Whatever it still shows later is evidence without these answers.
    pub fn log_unreadable(&mut self) {
        self.blind = true;
        self.awaited.clear();
    }

    /// Matches own requests with logged ones. Returns whether the log shows them in time.
    pub fn match_log(&mut self, requests: &[Request], candidate: Color, now: Duration) -> bool {
        let own = requests.iter().filter(|request| request.by_deployer);
        let (by_candidate, by_others): (Vec<_>, Vec<_>) =
            own.partition(|request| request.last_asked() == Some(candidate));
        self.by_others += by_others.len();
        let logged = by_candidate.len() + by_others.len();
        let matched = logged.min(self.awaited.len());
        for _ in 0..matched {
            let answer = self.awaited.pop_front();
            self.match_answer(answer.and_then(|answer| answer.wrong));
        }
        // Other requests of a deployer are logged too, such as health checks.
        self.early = (self.early + logged - matched).min(self.unanswered);
        // The others' answers were right. Kept, they would excuse wrong answers of the candidate.
        self.by_others = self.by_others.min(self.unanswered + self.awaited.len());
        let due = |answer: &&Awaited| answer.at + Self::PATIENCE < now;
        let overdue = self.awaited.iter().take_while(due).count();
        self.awaited.drain(..overdue);
        // Without own requests on the clients' path, any logged request shows that the log works again.
        self.blind = overdue > 0 || self.blind && requests.is_empty();
        !self.blind
    }

    /// Counts a wrong answer, unless the standby gave it.
    fn match_answer(&mut self, wrong: Option<String>) {
        let Some(wrong) = wrong else {
            return;
        };
        if self.by_others > 0 {
            self.by_others -= 1;
        } else {
            self.record_wrong(wrong);
            self.logged_wrong += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::answered_by;

    fn logged(count: usize, by_deployer: bool) -> Vec<Request> {
        let request = Request {
            by_deployer,
            ..answered_by(Color::Green, 200)
        };
        vec![request; count]
    }

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(5);
    const CANDIDATE: Color = Color::Green;

    /// Own requests, of which this many were answered on the clients' path at this time.
    fn answered(count: usize, at: Duration) -> OwnRequests {
        let mut own_requests = OwnRequests::default();
        for _ in 0..count {
            own_requests.sent();
            own_requests.ended_on_clients_path(at, None);
        }
        own_requests
    }

    #[test]
    fn logged_own_requests_use_the_public_path() {
        let mut own_requests = answered(2, Duration::ZERO);
        assert!(own_requests.match_log(&[], CANDIDATE, SOON));
        assert!(own_requests.match_log(&logged(2, true), CANDIDATE, LATE));
        assert_eq!(own_requests.target(CANDIDATE), Target::Public);
        assert_eq!(own_requests.count(), 2);
    }

    #[test]
    fn unlogged_own_requests_go_to_candidate_until_log_recovers() {
        let mut own_requests = answered(2, Duration::ZERO);
        assert!(!own_requests.match_log(&logged(1, true), CANDIDATE, LATE));
        let candidate_only = Target::ThroughRouter(CANDIDATE);
        assert_eq!(own_requests.target(CANDIDATE), candidate_only);
        own_requests.sent();
        own_requests.ended_at_candidate(None);
        assert!(!own_requests.match_log(&[], CANDIDATE, 2 * LATE));
        assert!(own_requests.match_log(&logged(1, false), CANDIDATE, 2 * LATE));
        assert_eq!(own_requests.target(CANDIDATE), Target::Public);
    }

    #[test]
    fn unreadable_log_sends_own_requests_to_candidate() {
        let mut own_requests = answered(2, Duration::ZERO);
        own_requests.log_unreadable();
        let candidate_only = Target::ThroughRouter(CANDIDATE);
        assert_eq!(own_requests.target(CANDIDATE), candidate_only);
        assert_eq!(own_requests.to_send(5), 5);
    }

    #[test]
    fn requests_on_their_way_are_not_sent_again() {
        let mut own_requests = answered(2, Duration::ZERO);
        own_requests.sent();
        assert_eq!(own_requests.to_send(3), 0);
        assert_eq!(own_requests.to_send(10), 7);
        assert!(own_requests.match_log(&logged(2, true), CANDIDATE, SOON));
        assert_eq!(own_requests.to_send(3), 2);
    }

    #[test]
    fn right_answer_of_standby_excuses_no_later_wrong_one() {
        let mut own_requests = answered(1, SOON);
        // Green answered, which is the standby here.
        assert!(own_requests.match_log(&logged(1, true), Color::Blue, SOON));
        own_requests.sent();
        own_requests.ended_on_clients_path(SOON, Some("answered \"bad\"".to_owned()));
        assert!(own_requests.match_log(&logged(1, true), Color::Green, SOON));
        assert_eq!(own_requests.take_logged_wrong(), 1);
    }

    #[test]
    fn at_most_64_requests_are_unanswered() {
        let mut own_requests = OwnRequests::default();
        for _ in 0..60 {
            own_requests.sent();
        }
        assert_eq!(own_requests.to_send(1_000), 4);
        own_requests.ended_on_clients_path(SOON, None);
        assert_eq!(own_requests.to_send(1_000), 5);
    }

    #[test]
    fn request_logged_before_its_answer_is_not_awaited() {
        let mut own_requests = OwnRequests::default();
        own_requests.sent();
        assert!(own_requests.match_log(&logged(1, true), CANDIDATE, SOON));
        own_requests.ended_on_clients_path(SOON, Some("answered \"bad\"".to_owned()));
        assert_eq!(own_requests.take_logged_wrong(), 1);
        assert!(own_requests.match_log(&[], CANDIDATE, 2 * LATE));
    }

    #[test]
    fn wrong_answer_counts_once_and_not_if_standby_gave_it() {
        for (candidate, wrong) in [(CANDIDATE, 1), (CANDIDATE.other(), 0)] {
            let mut own_requests = OwnRequests::default();
            own_requests.sent();
            own_requests.ended_on_clients_path(SOON, Some("answered \"bad\"".to_owned()));
            assert_eq!(
                own_requests.take_logged_wrong(),
                0,
                "before the log shows it"
            );
            // Green answered.
            assert!(own_requests.match_log(&logged(1, true), candidate, SOON));
            assert_eq!(own_requests.take_logged_wrong(), wrong);
            assert_eq!(own_requests.take_logged_wrong(), 0);
            assert_eq!(own_requests.wrong().count, wrong);
        }
    }
}

//! The deployer's own requests through the router, which replace the traffic that a quiet service lacks.

use std::{collections::VecDeque, time::Duration};

use crate::{color::Color, evidence::request::Request, ports::Target};

/// Chooses the path of own requests, and checks that the router's log shows them.
///
/// The log says which color answered. Without it, an answer on the clients' path may come from the standby, so
/// own requests take a path on which only the candidate answers.
#[derive(Debug, Default)]
pub struct OwnRequests {
    /// When each request was answered that took the clients' path and is not in the log yet.
    awaited: VecDeque<Duration>,
    blind: bool,
    sent: usize,
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

    /// Records answers. Returns whether these answers, instead of the log, are the evidence.
    pub fn answered(&mut self, at: Duration, answers: usize) -> bool {
        self.sent += answers;
        if !self.blind {
            self.awaited.extend(std::iter::repeat_n(at, answers));
        }
        self.blind
    }

    /// The number of own requests so far.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Records that the log cannot be read.
    pub fn log_unreadable(&mut self) {
        self.blind = true;
    }

    /// Matches own requests with logged ones. Returns whether the log shows them in time.
    pub fn match_log(&mut self, requests: &[Request], now: Duration) -> bool {
        let own = requests.iter().filter(|request| request.by_deployer);
        self.awaited.drain(..own.count().min(self.awaited.len()));
        let due = |at: &&Duration| **at + Self::PATIENCE < now;
        let overdue = self.awaited.iter().take_while(due).count();
        self.awaited.drain(..overdue);
        // Without own requests on the clients' path, any logged request shows that the log works again.
        self.blind = overdue > 0 || self.blind && requests.is_empty();
        !self.blind
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

    #[test]
    fn logged_own_requests_use_the_public_path() {
        let mut own_requests = OwnRequests::default();
        assert!(!own_requests.answered(Duration::ZERO, 2));
        assert!(own_requests.match_log(&[], SOON));
        assert!(own_requests.match_log(&logged(2, true), LATE));
        assert_eq!(own_requests.target(Color::Green), Target::Public);
        assert_eq!(own_requests.sent(), 2);
    }

    #[test]
    fn unlogged_own_requests_go_to_candidate_until_log_recovers() {
        let mut own_requests = OwnRequests::default();
        own_requests.answered(Duration::ZERO, 2);
        assert!(!own_requests.match_log(&logged(1, true), LATE));
        let candidate_only = Target::ThroughRouter(Color::Green);
        assert_eq!(own_requests.target(Color::Green), candidate_only);
        assert!(own_requests.answered(LATE, 1));
        assert!(!own_requests.match_log(&[], 2 * LATE));
        assert!(own_requests.match_log(&logged(1, false), 2 * LATE));
        assert_eq!(own_requests.target(Color::Green), Target::Public);
    }

    #[test]
    fn unreadable_log_sends_own_requests_to_candidate() {
        let mut own_requests = OwnRequests::default();
        own_requests.log_unreadable();
        let candidate_only = Target::ThroughRouter(Color::Blue);
        assert_eq!(own_requests.target(Color::Blue), candidate_only);
    }
}

//! Requests that the deployer sends through the router itself, so that a quiet service is judged too.

use std::{collections::VecDeque, time::Duration};

use crate::{color::Color, ports::Target, traffic::Request};

/// Whom to ask, and whether the router's log shows it.
///
/// The log says what each color answered, also where the standby then answered in its place. Where it
/// cannot be read, or does not show what was sent, an answer says nothing of the candidate unless the
/// candidate alone can have given it.
#[derive(Debug, Default)]
pub struct Probes {
    /// Sent the way of clients, and not seen in the log yet: when each was answered.
    awaited: VecDeque<Duration>,
    blind: bool,
    sent: usize,
}

impl Probes {
    /// nginx writes its log within half a second.
    const PATIENCE: Duration = Duration::from_secs(3);

    /// The clients' way in, or the one to the candidate alone.
    #[must_use]
    pub fn target(&self, candidate: Color) -> Target {
        if self.blind {
            Target::ThroughRouter(candidate)
        } else {
            Target::Public
        }
    }

    /// Takes note of answers. True where they, and not the log, say what the candidate did.
    pub fn answered(&mut self, at: Duration, answers: usize) -> bool {
        self.sent += answers;
        if !self.blind {
            self.awaited.extend(std::iter::repeat_n(at, answers));
        }
        self.blind
    }

    /// How many there were in all.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// The log cannot be read.
    pub fn lose_sight(&mut self) {
        self.blind = true;
    }

    /// Looks for them in what was logged. False when the log does not show them in time.
    pub fn find_in(&mut self, requests: &[Request], now: Duration) -> bool {
        let own = requests.iter().filter(|request| request.by_deployer);
        self.awaited.drain(..own.count().min(self.awaited.len()));
        let due = |at: &&Duration| **at + Self::PATIENCE < now;
        let overdue = self.awaited.iter().take_while(due).count();
        self.awaited.drain(..overdue);
        // Whoever is blind sends nothing that would show: any request does.
        self.blind = overdue > 0 || self.blind && requests.is_empty();
        !self.blind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(count: usize, by_deployer: bool) -> Vec<Request> {
        let request = Request {
            at: 0.0,
            by_deployer,
            wanted: Color::Green,
            answered: Some(Color::Green),
            status: 200,
            attempts: vec![Some(200)],
            took: None,
            waited: Duration::ZERO,
            label: None,
        };
        vec![request; count]
    }

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(5);

    #[test]
    fn those_that_are_logged_take_the_way_of_clients() {
        let mut probes = Probes::default();
        assert!(!probes.answered(Duration::ZERO, 2));
        assert!(probes.find_in(&[], SOON));
        assert!(probes.find_in(&logged(2, true), LATE));
        assert_eq!(probes.target(Color::Green), Target::Public);
        assert_eq!(probes.sent(), 2);
    }

    #[test]
    fn where_the_log_does_not_show_them_the_candidate_alone_is_asked_until_it_shows_anything() {
        let mut probes = Probes::default();
        probes.answered(Duration::ZERO, 2);
        assert!(!probes.find_in(&logged(1, true), LATE));
        let alone = Target::ThroughRouter(Color::Green);
        assert_eq!(probes.target(Color::Green), alone);
        assert!(probes.answered(LATE, 1));
        assert!(!probes.find_in(&[], 2 * LATE));
        assert!(probes.find_in(&logged(1, false), 2 * LATE));
        assert_eq!(probes.target(Color::Green), Target::Public);
    }

    #[test]
    fn where_the_log_cannot_be_read_the_candidate_alone_is_asked() {
        let mut probes = Probes::default();
        probes.lose_sight();
        let alone = Target::ThroughRouter(Color::Blue);
        assert_eq!(probes.target(Color::Blue), alone);
    }
}

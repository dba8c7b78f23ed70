//! Simulated deployments of good and bad releases, judged by the real judge with the shipped settings.

mod clients;
mod deployment;
mod slow;

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    bake::judge::tests::simulation::{
        clients::{Affected, Fault, Habit},
        deployment::{Case, Service, deploy, shipped_settings},
    },
    evidence::{
        statistics::{Interval, Z_99, wilson},
        tally::Tally,
    },
};

/// How many deployments of each kind are simulated after every change.
const FEW: u64 = 200;

/// The share of deployments that may end wrong.
const MOST_WRONG: f64 = 0.01;

/// How the simulated deployments of one kind ended.
struct Outcome {
    tally: Tally,
    /// Why those ended so that count as failed.
    reasons: BTreeMap<String, u64>,
}

/// Simulates this many deployments. Counts those as failed whose release stays, if it should not, or does not, if it
/// should.
fn simulate(case: Case, deployments: u64, should_stay: bool) -> Outcome {
    let settings = shipped_settings();
    let mut outcome = Outcome {
        tally: Tally::default(),
        reasons: BTreeMap::new(),
    };
    for seed in 0..deployments {
        let (stays, verdict) = deploy(case, &settings, seed);
        outcome.tally.count(stays == should_stay);
        if stays != should_stay {
            // Without the figures.
            let reason = verdict
                .summary
                .replace(|letter: char| letter.is_ascii_digit(), "");
            *outcome.reasons.entry(reason).or_default() += 1;
        }
    }
    outcome
}

impl Outcome {
    fn interval(&self) -> Interval {
        wilson(self.tally, Z_99)
    }

    /// Whether certainly too many deployments ended wrong.
    fn is_wrong(&self) -> bool {
        self.interval().low > MOST_WRONG
    }

    /// The share that ended wrong, and the upper end of its interval, in percent.
    fn percent(&self) -> String {
        let high = 100.0 * self.interval().high;
        format!("{:.1} (≤ {high:.1})", 100.0 * self.tally.error_rate())
    }

    fn most_frequent_reason(&self) -> Option<&str> {
        let most = self.reasons.iter().max_by_key(|(_, count)| **count);
        most.map(|(reason, _)| reason.as_str())
    }
}

/// Whether a release with this share of affected requests should stay; `None` if either end is right.
fn should_stay(fault: Fault, share: f64) -> Option<bool> {
    let settings = shipped_settings().bake;
    // Failures are held against the error rate; what may be the clients' fault against the rise.
    let limit = match fault {
        Fault::Cut | Fault::Fail => settings.max_error_rate,
        _ => settings.max_rise,
    };
    if share <= limit / 2.0 {
        return Some(true);
    }
    (share >= 3.0 * settings.max_error_rate).then_some(false)
}

/// Simulates releases with this fault. Prints a row of a table for each service and choice of affected requests, with the
/// share of releases in percent that stay.
fn judge_releases(fault: Fault, deployments: u64) {
    let mut wrong = String::new();
    for affected in [Affected::AtRandom, Affected::ByInput] {
        for service in [Service::Quiet, Service::Busy] {
            let mut row = format!("| {fault:?} | {affected:?} | {service:?} |");
            for share in [0.01, 0.025, 0.03, 0.10, 0.15, 0.30] {
                let case = Case {
                    service,
                    habit: Habit::Usual,
                    fault: Some((fault, share, affected)),
                };
                let expected = should_stay(fault, share);
                let outcome = simulate(case, deployments, expected.unwrap_or(false));
                let stays = match expected {
                    Some(true) => 1.0 - outcome.tally.error_rate(),
                    _ => outcome.tally.error_rate(),
                };
                let _ = write!(row, " {:.1} |", 100.0 * stays);
                if expected.is_some() && outcome.is_wrong() {
                    let _ = writeln!(
                        wrong,
                        "{case:?}: {} % are wrong, such as: {}",
                        outcome.percent(),
                        outcome.most_frequent_reason().unwrap_or_default()
                    );
                }
            }
            println!("{row}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Simulates healthy releases. Prints the share that does not stay.
fn judge_healthy_releases(service: Service, deployments: u64) {
    let mut wrong = String::new();
    for habit in Habit::ALL {
        let case = Case {
            service,
            habit,
            fault: None,
        };
        let outcome = simulate(case, deployments, true);
        println!("| {habit:?} | {service:?} | {} |", outcome.percent());
        if outcome.is_wrong() {
            let _ = writeln!(
                wrong,
                "{case:?}: {} % are wrong, such as: {}",
                outcome.percent(),
                outcome.most_frequent_reason().unwrap_or_default()
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn hanging_releases_are_rolled_back() {
    judge_releases(Fault::Hang, FEW);
}

#[test]
fn slow_releases_are_rolled_back() {
    judge_releases(Fault::Slow, FEW);
}

#[test]
fn refusing_releases_are_rolled_back() {
    judge_releases(Fault::Refuse, FEW);
}

#[test]
fn releases_that_cut_answers_are_rolled_back() {
    judge_releases(Fault::Cut, FEW);
}

#[test]
fn failing_releases_are_rolled_back() {
    judge_releases(Fault::Fail, FEW);
}

#[test]
fn releases_with_empty_answers_are_rolled_back() {
    judge_releases(Fault::AnswerNothing, FEW);
}

#[test]
fn healthy_releases_of_quiet_services_stay() {
    judge_healthy_releases(Service::Quiet, FEW);
}

#[test]
fn healthy_releases_of_busy_services_stay() {
    judge_healthy_releases(Service::Busy, FEW);
}

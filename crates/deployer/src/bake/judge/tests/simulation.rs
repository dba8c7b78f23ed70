//! Simulated deployments of good and bad releases, judged by the real judge with the shipped settings.
//!
//! To print the tables: `cargo nextest run -p deployer 'simulation' --success-output final`.

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
        statistics::{Z_99, wilson},
        tally::Tally,
    },
};

/// The rules were chosen with smaller seeds, so that these show how they do on traffic that they were not chosen for.
const FIRST_SEED: u64 = 1_000_000;

/// How many deployments to simulate of each kind.
#[derive(Clone, Copy)]
enum Extent {
    /// After every change: a few, with the shares of affected requests that a release may have, and three times the
    /// allowed one.
    Few,
    /// Many, with all shares.
    Many,
}

impl Extent {
    /// The number of deployments. If either end is right, fewer suffice.
    fn deployments(self, should_stay: Option<bool>) -> u64 {
        match (self, should_stay) {
            (Self::Few, _) => 200,
            (Self::Many, None) => 500,
            (Self::Many, Some(_)) => 2_000,
        }
    }

    fn shares(self) -> &'static [f64] {
        match self {
            Self::Few => &[0.01, 0.15],
            Self::Many => &[0.01, 0.025, 0.03, 0.1, 0.15, 0.3],
        }
    }
}

/// How the simulated deployments of one kind ended.
#[derive(Default)]
struct Outcome {
    /// All, and those whose release stays.
    stayed: Tally,
    /// All, and those that ended wrong.
    wrong: Tally,
    /// Why they ended so.
    reasons: BTreeMap<String, u64>,
}

/// Simulates deployments. A bad release that stays is wrong if clients met its fault.
fn simulate(case: Case, should_stay: Option<bool>, deployments: u64) -> Outcome {
    let settings = shipped_settings();
    let mut outcome = Outcome::default();
    for seed in FIRST_SEED..FIRST_SEED + deployments {
        let ended = deploy(case, &settings, seed);
        let wrong = match should_stay {
            Some(true) => !ended.stays,
            Some(false) => ended.stays && ended.affected > 0,
            None => false,
        };
        outcome.stayed.count(!ended.stays);
        outcome.wrong.count(!wrong);
        if wrong {
            let without_figures = |letter: char| !letter.is_ascii_digit();
            let reason = ended
                .verdict
                .summary
                .chars()
                .filter(|it| without_figures(*it));
            *outcome.reasons.entry(reason.collect()).or_default() += 1;
        }
    }
    outcome
}

impl Outcome {
    /// Returns what is wrong if certainly more than one of a hundred deployments ended wrong.
    fn complaint(&self, case: Case) -> Option<String> {
        const MAX_WRONG: f64 = 0.01;

        let reason = self.reasons.iter().max_by_key(|(_, count)| **count);
        (wilson(self.wrong, Z_99).low > MAX_WRONG).then(|| {
            format!(
                "{case:?}: {} of {} ended wrong, most often: {}\n",
                self.wrong.failed,
                self.wrong.requests,
                reason
                    .map(|(reason, _)| reason.as_str())
                    .unwrap_or_default()
            )
        })
    }
}

/// A share in percent, with the upper bound (99 %) of its interval.
fn percent(tally: Tally) -> String {
    let high = 100.0 * wilson(tally, Z_99).high;
    format!("{:.1} (≤ {high:.1})", 100.0 * tally.error_rate())
}

/// Whether a release with this share of affected requests should stay; `None` if either end is right.
fn should_stay(fault: Fault, share: f64) -> Option<bool> {
    let settings = shipped_settings().bake;
    // Failures are held against the error rate; what may be the clients' fault, against its rise.
    let limit = match fault {
        Fault::Cut | Fault::Fail => settings.max_error_rate,
        _ => settings.max_rise,
    };
    if share <= limit / 2.0 {
        return Some(true);
    }
    (share >= 3.0 * settings.max_error_rate).then_some(false)
}

/// Simulates releases with this fault. Prints the share of releases that stay, in percent: a row for each service and
/// choice of affected requests, a column for each share of affected requests.
fn judge_releases(fault: Fault, extent: Extent) {
    let mut complaints = String::new();
    for affected in [Affected::AtRandom, Affected::ByInput] {
        for service in [Service::Quiet, Service::Busy] {
            let mut row = format!("| {fault:?} | {affected:?} | {service:?} |");
            for share in extent.shares() {
                let case = Case {
                    service,
                    habit: Habit::Usual,
                    fault: Some((fault, *share, affected)),
                };
                let expected = should_stay(fault, *share);
                let outcome = simulate(case, expected, extent.deployments(expected));
                let _ = write!(row, " {:.1} |", 100.0 * outcome.stayed.error_rate());
                complaints.extend(outcome.complaint(case));
            }
            println!("{row}");
        }
    }
    assert!(complaints.is_empty(), "{complaints}");
}

/// Simulates healthy releases. Prints the share that is rolled back.
fn judge_healthy_releases(service: Service, extent: Extent) {
    let mut complaints = String::new();
    for habit in Habit::ALL {
        let case = Case {
            service,
            habit,
            fault: None,
        };
        let outcome = simulate(case, Some(true), extent.deployments(Some(true)));
        println!("| {habit:?} | {service:?} | {} |", percent(outcome.wrong));
        complaints.extend(outcome.complaint(case));
    }
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn hanging_releases_are_rolled_back() {
    judge_releases(Fault::Hang, Extent::Few);
}

#[test]
fn slow_releases_are_rolled_back() {
    judge_releases(Fault::Slow, Extent::Few);
}

#[test]
fn refusing_releases_are_rolled_back() {
    judge_releases(Fault::Refuse, Extent::Few);
}

#[test]
fn releases_that_cut_answers_are_rolled_back() {
    judge_releases(Fault::Cut, Extent::Few);
}

#[test]
fn failing_releases_are_rolled_back() {
    judge_releases(Fault::Fail, Extent::Few);
}

#[test]
fn releases_with_empty_answers_are_rolled_back() {
    judge_releases(Fault::AnswerNothing, Extent::Few);
}

#[test]
fn healthy_releases_of_quiet_services_stay() {
    judge_healthy_releases(Service::Quiet, Extent::Few);
}

#[test]
fn healthy_releases_of_busy_services_stay() {
    judge_healthy_releases(Service::Busy, Extent::Few);
}

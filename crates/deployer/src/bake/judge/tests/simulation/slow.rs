//! Ten times as many deployments.

use super::{Fault, Service, judge_healthy_releases, judge_releases};

const MANY: u64 = 10 * super::FEW;

#[test]
fn hanging_releases_are_rolled_back() {
    judge_releases(Fault::Hang, MANY);
}

#[test]
fn slow_releases_are_rolled_back() {
    judge_releases(Fault::Slow, MANY);
}

#[test]
fn refusing_releases_are_rolled_back() {
    judge_releases(Fault::Refuse, MANY);
}

#[test]
fn releases_that_cut_answers_are_rolled_back() {
    judge_releases(Fault::Cut, MANY);
}

#[test]
fn failing_releases_are_rolled_back() {
    judge_releases(Fault::Fail, MANY);
}

#[test]
fn releases_with_empty_answers_are_rolled_back() {
    judge_releases(Fault::AnswerNothing, MANY);
}

#[test]
fn healthy_releases_of_quiet_services_stay() {
    judge_healthy_releases(Service::Quiet, MANY);
}

#[test]
fn healthy_releases_of_busy_services_stay() {
    judge_healthy_releases(Service::Busy, MANY);
}

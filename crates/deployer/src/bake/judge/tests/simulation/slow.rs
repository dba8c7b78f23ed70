//! The same with many deployments and all shares of affected requests.

use super::{Extent, Fault, Service, judge_healthy_releases, judge_releases};

#[test]
fn hanging_releases_are_rolled_back() {
    judge_releases(Fault::Hang, Extent::Many);
}

#[test]
fn slow_releases_are_rolled_back() {
    judge_releases(Fault::Slow, Extent::Many);
}

#[test]
fn refusing_releases_are_rolled_back() {
    judge_releases(Fault::Refuse, Extent::Many);
}

#[test]
fn releases_that_cut_answers_are_rolled_back() {
    judge_releases(Fault::Cut, Extent::Many);
}

#[test]
fn failing_releases_are_rolled_back() {
    judge_releases(Fault::Fail, Extent::Many);
}

#[test]
fn releases_with_empty_answers_are_rolled_back() {
    judge_releases(Fault::AnswerNothing, Extent::Many);
}

#[test]
fn healthy_releases_of_quiet_services_stay() {
    judge_healthy_releases(Service::Quiet, Extent::Many);
}

#[test]
fn healthy_releases_of_busy_services_stay() {
    judge_healthy_releases(Service::Busy, Extent::Many);
}

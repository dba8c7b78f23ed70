//! Deployments: plan, gates, switch, recovery, and traffic that is moved outside of a deployment.

mod active_down;
pub(crate) mod approval;
pub mod await_healthy;
pub mod decisions;
pub mod ending;
pub mod gate_runner;
pub mod interrupted;
pub mod phase;
pub mod plan;
pub mod preflight;
pub(crate) mod previous;
pub mod recover;
pub mod restore;
pub mod return_traffic;
pub mod rollout;
pub mod scope;
mod start;
pub(crate) mod stopping;
mod switch;
pub mod trace;
pub mod traffic_mover;
pub mod windows;

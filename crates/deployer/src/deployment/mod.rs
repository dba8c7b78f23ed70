//! Deployments: plan, gates, switch, recovery, and traffic that is moved outside of a deployment.

pub mod ending;
pub mod gate_runner;
pub mod phase;
pub mod plan;
pub mod preflight;
pub mod recover;
pub mod restore;
pub mod return_traffic;
pub mod rollout;
mod switch;
pub mod traffic_mover;

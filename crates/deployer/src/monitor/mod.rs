//! `deployer monitor`: checks both colors all the time, sends alerts, and removes the fit flag of a standby that is down.

mod actions;
mod changed_releases;
mod color;
pub mod health;
mod metrics;
pub mod page;
mod page_actions;
mod rounds;
mod router_errors;
mod service;
pub mod standby;
mod state;

pub(crate) use rounds::{Listeners, run};

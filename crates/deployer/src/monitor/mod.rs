//! `deployer monitor`: checks both colors all the time, sends alerts, and keeps a sick standby from standing in.

mod actions;
mod color;
pub mod health;
mod metrics;
mod rounds;
mod service;
pub mod standby;
mod state;

pub(crate) use rounds::run;

//! Blue-green deployment for model servers behind nginx.
//!
//! The way through the code: [`cli`] says what is wanted, [`config`] with which figures, a
//! [`plan::Plan`] which release goes where; [`rollout`] does it through the [`ports`], asking the
//! [`gates`] before the switch and the [`watch`] after it. [`adapters`] meet the ports for real.

pub mod adapters;
pub mod cli;
pub mod color;
mod commands;
pub mod config;
pub mod diagnosis;
pub mod event;
pub mod evidence;
pub mod examples;
pub mod exit_code;
pub mod gates;
pub mod history;
pub mod holder;
pub mod intent;
pub mod journal;
mod kill_point;
pub mod latency;
pub mod load;
pub mod monitor;
pub mod phase;
pub mod plan;
pub mod ports;
pub mod preflight;
pub mod probes;
pub mod recover;
pub mod release;
pub mod report;
pub mod rollout;
pub mod statistics;
pub mod traffic;
pub mod transfer;
pub mod verdict;
pub mod watch;

pub use commands::run;

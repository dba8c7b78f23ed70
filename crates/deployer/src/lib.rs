//! Blue-green deployment for model servers behind nginx.
//!
//! [`cli`] parses the command and [`config`] the settings. A [`Plan`](deployment::plan::Plan) says which release goes
//! to which color. A [`Rollout`](deployment::rollout::Rollout) carries it out through the [`ports`]: it runs the [`gates`]
//! before the switch and the [`bake`] after it. The [`adapters`] implement the ports.

pub mod adapters;
pub mod agent;
pub mod bake;
pub mod cli;
pub mod cluster;
pub mod color;
mod commands;
pub mod config;
pub mod deployment;
pub mod doctor;
pub mod event;
pub mod evidence;
pub mod examples;
pub mod exit_code;
pub mod gates;
mod internal_api;
mod kill_point;
pub mod monitor;
pub mod ports;
mod promoted;
pub mod release;
pub mod report;
pub mod request_reader;
pub mod shutdown;
pub mod state;
pub mod store;

pub use commands::run;

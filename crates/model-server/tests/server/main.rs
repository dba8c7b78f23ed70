//! Tests of the whole server, over HTTP: in the test's own process, and as the `model-server` binary.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod capture;
mod compression;
mod connections;
mod fixture_models;
mod fuzz;
mod golden;
mod metrics;
mod open_inference;
mod predict;
mod refusals;
mod release_files;
mod releases;
mod request_log;
mod security;
mod shutdown;
mod startup;
mod support;
mod traces;

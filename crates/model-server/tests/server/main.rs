//! The whole server on the shipped models: over HTTP, and as the binary that users start.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answers;
mod compression;
mod connections;
mod fixtures;
mod fuzz;
mod golden;
mod keys;
mod observe;
mod refusals;
mod releases;
mod start;
mod stop;
mod support;

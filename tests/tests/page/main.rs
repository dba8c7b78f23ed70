//! The page and the report in a real browser: what a person sees, can do, and cannot do.

mod access;
mod actions;
mod browser;
mod driver;
mod followed;
mod harness;
mod pictures;
mod plain;
mod report;
mod served;
mod viewers;

//! The page and the report in a real browser: what a person sees, can do, and cannot do.

mod browser;
mod harness;

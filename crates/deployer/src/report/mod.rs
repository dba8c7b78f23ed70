//! Consumers of events.

mod terminal;

pub use terminal::Terminal;

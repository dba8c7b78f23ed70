//! The state directory: lock, journal, and history.

pub mod atomic_file;
pub mod history;
pub mod journal;
pub mod lock_holder;
pub mod traffic_move;

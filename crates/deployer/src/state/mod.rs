//! What outlives a deployer: the lock, the journal, the history, and requests.

pub mod action;
pub mod approval;
pub mod atomic_file;
pub mod history;
pub mod history_chain;
pub mod journal;
pub mod journal_entries;
pub(crate) mod line_file;
pub mod lock_holder;
pub mod operator_request;
pub mod traffic_move;

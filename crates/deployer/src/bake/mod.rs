//! The bake: the period under real traffic after the switch in which a candidate can still be rolled back.

mod await_decision;
mod checks;
mod copies;
mod expected_answers;
pub mod judge;
mod observe;
mod observer;
pub mod own_requests;
pub(crate) mod period;

//! The bake: the period under real traffic after the switch in which a candidate can still be rolled back.

pub mod judge;
mod observe;
pub mod own_requests;

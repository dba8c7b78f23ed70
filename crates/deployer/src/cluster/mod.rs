//! Several routers that switch as one.
//!
//! One object in a store with compare-and-swap, the [`Truth`], decides where traffic goes. Each router has an agent, which
//! copies the truth to the router's flags. A change that could make two routers serve different colors is fenced: the
//! deployer writes that it is *prepared*, every router *promises* to close itself unless it keeps hearing that the change is
//! undecided, and only then the deployer commits it.
//!
//! This module is pure: it decides, and has no clock, network, or file.

pub mod change;
pub mod message;
pub mod router_state;
pub mod truth;

#[cfg(test)]
mod tests;

pub use self::truth::{Prepared, RouterFlags, Truth};

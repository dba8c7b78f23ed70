//! What the end-to-end tests and the demonstration share: a stack of real nginx and real model servers in its
//! own directory, the deployer run like a user runs it, and client traffic with a record of every request.

mod alerts;
pub mod fault;
mod http;
mod layout;
mod nobody;
mod ports;
mod stack;
mod there_and_back;
mod torture;
mod traffic;

pub use alerts::Receiver;
pub use http::{get, post, post_for_body};
pub use layout::NOT_IN_THE_IMAGE;
pub use ports::PortBlock;
pub use stack::{Bake, Run, Stack, golden_bodies, program, repository, send_signal};
pub use there_and_back::there_and_back_twice;
pub use torture::{Action, Torture};
pub use traffic::{Answer, Log, Traffic};

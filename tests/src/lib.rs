//! The parts that the end-to-end tests and the demonstration share: a stack of real nginx and real model
//! servers in its own directory, runs of the deployer as a user runs it, and client traffic with a record of
//! every request.

mod alerts;
mod deploy_and_roll_back;
mod eventually;
pub mod fault;
mod http;
mod layout;
mod network;
mod ports;
mod stack;
mod store;
mod torture;
mod traffic;
mod unprivileged;
mod workspace;

pub use alerts::AlertReceiver;
pub use deploy_and_roll_back::deploy_and_roll_back_twice;
pub use eventually::eventually;
pub use http::{get, post, post_for_body};
pub use layout::VERSION_NOT_IN_IMAGE;
pub use network::{Link, Network};
pub use ports::PortBlock;
pub use stack::{BakeDuration, DeployerRun, Stack, send_signal};
pub use store::{create_store, start_store};
pub use torture::{Action, Torture};
pub use traffic::{Clients, RequestRecord, Traffic, TrafficLog};
pub use workspace::{golden_bodies, program, repository};

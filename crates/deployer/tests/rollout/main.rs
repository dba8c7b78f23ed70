//! Whole deployments in a world of fakes and on virtual time: what is done, in which order, and
//! where traffic is at every moment of it.

mod candidate_is_halted;
mod candidate_is_promoted;
mod candidate_is_refused;
mod candidate_is_rolled_back;
mod deployer_is_interrupted;
mod deployer_shuts_down;
mod deployment;
mod fake_ports;
mod gates_run;
mod history;
mod hooks_run;
mod person_moves_traffic;
mod port_fails;
mod script;
mod server;

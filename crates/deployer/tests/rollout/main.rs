//! Complete deployments on fake ports and virtual time. The tests check the outcome, the order of port calls,
//! and which color has the traffic after each call.

mod approval_is_awaited;
mod candidate_is_halted;
mod candidate_is_promoted;
mod candidate_is_refused;
mod candidate_is_rolled_back;
mod candidate_loads;
mod deployer_is_interrupted;
mod deployer_shuts_down;
mod deployment;
mod fake_ports;
mod faults;
mod gates_run;
mod hooks_run;
mod person_moves_traffic;
mod port_fails;
mod release_is_restored;
mod server;
mod trace;
mod windows;

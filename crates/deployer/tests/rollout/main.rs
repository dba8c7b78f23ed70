//! Whole deployments in a world of fakes and on virtual time: what is done, in which order, and
//! where traffic is at every moment of it.

mod candidate_is_halted;
mod candidate_is_promoted;
mod candidate_is_refused;
mod candidate_is_rolled_back;
mod deployer_is_interrupted;
mod deployer_is_told_to_stop;
mod deployment;
mod gates_are_asked;
mod history;
mod hooks_are_run;
mod script;
mod server;
mod somebody_interferes;
mod world;
mod world_is_faulty;

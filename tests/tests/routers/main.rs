//! A store, and routers with their agents: real nginx, real processes.

mod fence;
mod harness;
mod interface;
mod restarts;

type Result<T = ()> = anyhow::Result<T>;

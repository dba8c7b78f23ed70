//! Explores and samples what may happen to a change over several routers.

mod deployer;
mod explore;
mod random;
mod router;
mod world;

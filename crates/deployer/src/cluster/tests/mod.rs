//! Explores and samples what may happen to a change over several routers.

mod explore;
mod random;
mod router;
mod world;

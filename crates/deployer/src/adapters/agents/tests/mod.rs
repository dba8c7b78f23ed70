//! Several routers with agents in this process.

mod changes;
mod fakes;
mod logs;

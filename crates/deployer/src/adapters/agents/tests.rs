//! Several routers with agents in this process.

//! The agent's side of a fenced change: pure.

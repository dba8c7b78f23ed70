//! The deployer's side of a fenced change: pure.

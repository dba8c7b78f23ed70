//! How a fenced change ends.

use std::fmt;

use super::Settled;
use crate::cluster::truth::Truth;

/// Why a fenced change was refused. Traffic did not move.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RefusedBecause {
    /// Another change is prepared in the store.
    OtherPrepared(String),
    /// No router is registered.
    NoRouters,
    /// The router of this name did not promise, and why.
    NoPromise(String, String),
    /// Another writer decided over this change.
    Overruled,
    /// The store did not answer in time.
    Store(String),
}

/// How a fenced change ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The change is committed, and no router serves the old flags.
    Done {
        /// What was committed, or the newer truth that the store held when the deployer asked.
        truth: Truth,
        /// What became of each router.
        settled: Settled,
    },
    /// The change is not committed, and never will be.
    Refused {
        /// Why.
        because: Vec<RefusedBecause>,
        /// Whether the store may still hold the change as prepared. Agents abort it when they reach the store.
        left_prepared: bool,
    },
    /// The store holds a newer generation than this change's, so nothing is known of this change.
    Overtaken {
        /// The newer truth.
        truth: Truth,
    },
    /// The commit may have landed, or may still land: the store does not answer. The routers were released.
    Unknown {
        /// What the store's adapter said.
        error: String,
    },
}

impl fmt::Display for RefusedBecause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPrepared(by) => write!(formatter, "another change is prepared: {by}"),
            Self::NoRouters => formatter.write_str("no router is registered in the store"),
            Self::NoPromise(router, why) => {
                write!(formatter, "router {router} did not promise: {why}")
            }
            Self::Overruled => {
                formatter.write_str("another deployer or an agent decided over this change")
            }
            Self::Store(error) => write!(formatter, "the store did not answer in time: {error}"),
        }
    }
}

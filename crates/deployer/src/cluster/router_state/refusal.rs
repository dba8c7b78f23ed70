//! Why an agent refuses a message.

use std::{fmt, time::Duration};

use crate::color::Color;

/// Why an agent refuses a message. Answered with 409.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The change was decided before the message arrived.
    Decided {
        /// The change's generation.
        generation: u64,
    },
    /// The router's nginx does not obey the generation before the change. The deployer sends the truth, and asks again.
    Behind {
        /// The generation that nginx obeys; `None` before the agent first read the truth.
        own: Option<u64>,
        /// The generation that it must obey.
        needed: u64,
    },
    /// The deployer gave the change up.
    Released {
        /// The change's generation.
        generation: u64,
    },
    /// The deployer would wait for less time than the router may serve without an answer.
    LongerFence {
        /// T of the router.
        own: Duration,
        /// T of the deployer.
        deployer: Duration,
    },
    /// The router's nginx does not answer.
    NginxSilent,
    /// The router's nginx names another color as active than its flags.
    NginxDisagrees {
        /// What nginx names.
        nginx: Color,
        /// What the flags say.
        flags: Color,
    },
    /// The router's nginx does not reach the color that gets the traffic.
    Unreached(Color),
    /// The truth in the message is older than the one that the agent knows.
    Older {
        /// The generation in the message.
        message: u64,
        /// The generation that the agent knows.
        known: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided { generation } => {
                write!(formatter, "generation {generation} is decided already")
            }
            Self::Behind {
                own: Some(own),
                needed,
            } => {
                write!(formatter, "its nginx obeys generation {own}, not {needed}")
            }
            Self::Behind { own: None, needed } => {
                write!(formatter, "its nginx does not obey generation {needed} yet")
            }
            Self::Released { generation } => {
                write!(formatter, "the deployer gave generation {generation} up")
            }
            Self::LongerFence { own, deployer } => {
                write!(
                    formatter,
                    "its fence is {own:?} (--fence of its agent), longer than the deployer's {deployer:?} (routers.fence): set both to the same"
                )
            }
            Self::NginxSilent => formatter.write_str("its nginx does not answer"),
            Self::NginxDisagrees { nginx, flags } => {
                write!(
                    formatter,
                    "its nginx names {nginx} as active, but its flags say {flags}"
                )
            }
            Self::Unreached(color) => write!(formatter, "its nginx does not reach {color}"),
            Self::Older { message, known } => {
                write!(
                    formatter,
                    "generation {message} is older than {known}, which it knows"
                )
            }
        }
    }
}

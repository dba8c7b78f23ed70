//! Serves one release of a text classifier over HTTP.
//!
//! [`run`] is the whole server. [`serve`] is the same for whoever has a listener and a stop
//! signal of their own. Both take a function that may put layers around the router.
//!
//! | Room | What happens there |
//! |---|---|
//! | `http` | every route on one screen, every layer in `layers`; one file per noun; errors become statuses in one place |
//! | `text` | tokenize, truncate, labels, softmax |
//! | `batch` | what waits, what goes through the model together, and the threads that do it |
//! | `model` | how texts become a graph's inputs, and what its outputs mean |
//! | `engine` | one trait, one file per engine |
//! | `metrics` | every counter |
//! | `telemetry` | traces: who called, and where spans go |
//! | `logging` | lines, and the thread that writes them |
//! | `lifecycle` | load, warm up, ready, drain, stop |

mod batch;
mod connection;
mod engine;
mod healthcheck;
mod http;
mod keys;
mod lifecycle;
pub mod logging;
mod measure;
mod metrics;
mod model;
mod phase;
mod pulse;
mod room;
mod settings;
mod state;
mod telemetry;
mod text;

pub use engine::{EngineKind, EngineUnavailable, GraphError};
pub use healthcheck::{HealthcheckArguments, HealthcheckError, healthcheck};
pub use keys::KeysError;
pub use lifecycle::{LoadError, ServeError, bind, run, serve};
pub use measure::{MeasureArguments, MeasureError, measure};
pub use settings::{
    AddressArguments, ConnectionLimits, LogFormat, RequestLog, ServeArguments, Settings,
    SettingsError,
};
pub use text::{ConfigError, TokenizerError};

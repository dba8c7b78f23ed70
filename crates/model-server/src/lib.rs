//! Serves one release of a model over HTTP.
//!
//! [`run`] is the whole server. [`serve`] does the same on a listener and with a stop signal of the caller. Both take a
//! function that may add layers around the router.
//!
//! | Module | Contents |
//! |---|---|
//! | `config` | settings from flags and the environment, one file a section |
//! | `server` | routes, layers, connections, and the lifecycle: load, serve, drain, stop |
//! | `api` | one handler a file; `error` maps every error to its status |
//! | `task` | how inputs become tensors, and what the outputs mean |
//! | `tokenizer` | from texts to token IDs |
//! | `scheduler` | the queue, its batches, and the worker threads |
//! | `backend` | one trait, and a module for each engine |
//! | `release` | loads and tests a release, step by step |
//! | `capture` | keeps a sample of the texts that clients send |
//! | `metrics`, `telemetry`, `logging` | metrics, traces, and the log |

mod api;
mod api_keys;
mod backend;
mod busy_timer;
mod capture;
mod config;
mod healthcheck;
pub mod logging;
mod measure;
mod memory_budget;
mod metrics;
mod panic_message;
mod phase;
mod release;
mod scheduler;
mod server;
mod state;
mod task;
mod telemetry;
mod tokenizer;

pub use api_keys::KeysError;
pub use backend::engine::{EngineKind, EngineUnavailable, GraphError};
pub use capture::CaptureError;
pub use config::{
    Address, Batching, CaptureSettings, ConnectionLimits, Drain, EngineSettings, Limits,
    ModelSettings, Redaction, ServeArguments, Settings, SettingsError,
    log::{LogFormat, LogSettings, RequestLog},
    settings_file::{SettingsFileError, settings_template, with_settings_file},
};
pub use healthcheck::{HealthcheckArguments, HealthcheckError, healthcheck};
pub use measure::{MeasureArguments, MeasureError, measure};
pub use release::LoadError;
pub use server::lifecycle::{ServeError, bind, run, serve};
pub use task::model_config::ConfigError;
pub use tokenizer::text_tokenizer::TokenizerError;

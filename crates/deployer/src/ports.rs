//! The traits through which the deployer acts. `adapters` implements them; the tests have fakes.

mod clock;
mod error;
mod fleet;
mod hooks;
mod journal;
mod probe;
mod request_log;
mod router;
mod truth_store;

pub use self::{
    clock::Clock,
    error::PortError,
    fleet::{Activity, Fleet, FleetDiagnosis, Service, ServiceState},
    hooks::{HookPoint, Hooks},
    journal::{JournalError, JournalStore, Lock, LockGuard},
    probe::{Prediction, Probe, Target},
    request_log::{LogCursor, LogPart, RequestLog},
    router::{
        Flags, OnSilentRouter, Repeat, Router, RouterLimits, RouterStatus, Switched,
        UnconfirmedRouter,
    },
    truth_store::{RouterEntry, TruthStore, Version, WriteError},
};

pub(crate) use self::fleet::ACTIVITY_LINES;

/// All ports.
pub struct Ports {
    /// Asks the router, and moves traffic.
    pub router: Box<dyn Router>,
    /// Reads and sets the flags.
    pub flags: Box<dyn Flags>,
    /// `None` if this machine cannot read the access log.
    pub request_log: Option<Box<dyn RequestLog>>,
    /// What the idle color answered to copies; `None` if this machine cannot read that log.
    pub shadow_log: Option<Box<dyn RequestLog>>,
    /// Starts and stops services.
    pub fleet: Box<dyn Fleet>,
    /// Sends requests to model servers.
    pub probe: Box<dyn Probe>,
    /// Runs the hooks.
    pub hooks: Box<dyn Hooks>,
    /// Lets one deployer act at a time.
    pub lock: Box<dyn Lock>,
    /// Keeps the journal and the history.
    pub journal: Box<dyn JournalStore>,
    /// Tells the time.
    pub clock: Box<dyn Clock>,
}

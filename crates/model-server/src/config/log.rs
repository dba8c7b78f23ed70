use clap::{Args, ValueEnum};

/// What is logged, and how.
#[derive(Debug, Clone, Copy, Args)]
pub struct LogSettings {
    /// Format of the log on standard error
    #[arg(
        long = "log-format",
        env = "LOG_FORMAT",
        default_value = "plain",
        value_name = "FORMAT"
    )]
    pub format: LogFormat,

    /// Which requests are logged: all, or failures (status 500 and above)
    #[arg(
        long = "request-log",
        env = "REQUEST_LOG",
        default_value = "all",
        value_name = "WHICH"
    )]
    pub requests: RequestLog,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object on each line.
    Json,
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequestLog {
    /// All, except health checks and scrapes.
    All,
    /// Those with status 500 or above.
    Failures,
}

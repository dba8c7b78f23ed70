use std::{ffi::OsString, net::IpAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    backend::engine::EngineKind,
    config::{
        log::{LogFormat, RequestLog},
        parsers::{idle_timeout, otlp_endpoint, request_timeout, seconds},
    },
};

/// of them. Another binary may flatten them into its own command line.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Model to serve: a directory below the model root
    #[arg(
        long,
        env = "MODEL_NAME",
        default_value = "sentiment",
        value_name = "NAME"
    )]
    pub(crate) model_name: String,

    /// Release to serve: a directory below the model's, such as v1 (required)
    #[arg(long, env = "MODEL_VERSION", value_name = "VERSION")]
    pub(crate) model_version: Option<String>,

    /// Directory of models: ROOT/NAME/VERSION/{model.onnx, tokenizer.json, config.json}
    #[arg(
        long,
        env = "MODEL_ROOT",
        default_value = "models",
        value_name = "ROOT"
    )]
    pub(crate) model_root: PathBuf,

    #[command(flatten)]
    pub(crate) address: AddressArguments,

    /// Who runs the model: the built-in engine, or Microsoft's library, which has to be there
    #[arg(long, env = "ENGINE", default_value = "rten", value_name = "ENGINE")]
    pub(crate) engine: EngineKind,

    /// The library for --engine onnxruntime [default: libonnxruntime.so in the usual places]
    #[arg(long, env = "ONNXRUNTIME_LIBRARY", value_name = "PATH")]
    pub(crate) onnxruntime_library: Option<OsString>,

    /// CPUs to use for the model [default: those that this process may use]
    #[arg(long, env = "INFERENCE_THREADS", value_name = "COUNT")]
    pub(crate) inference_threads: Option<NonZeroUsize>,

    /// Forward passes at the same time, at most as many as threads; one that is alone uses all
    /// threads [default: as many as threads]
    #[arg(long, env = "INFERENCE_WORKERS", value_name = "COUNT")]
    pub(crate) inference_workers: Option<NonZeroUsize>,

    /// Texts of like length that share a forward pass at most; 1 for none [default: 4, more
    /// for a model that takes microseconds, 1 for one that quantizes as it goes: there a text's
    /// answer would depend on its neighbors]
    #[arg(long, env = "MAX_BATCH_TEXTS", value_name = "COUNT")]
    pub(crate) max_batch_texts: Option<NonZeroUsize>,

    /// Tokens in a forward pass at most, padding included; one longer text goes alone
    #[arg(
        long,
        env = "MAX_BATCH_TOKENS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    pub(crate) max_batch_tokens: NonZeroUsize,

    /// Texts that may wait for their turn; beyond it clients are told to come back (429). One
    /// request may have a quarter as many
    #[arg(
        long,
        env = "QUEUE_CAPACITY",
        default_value = "1024",
        value_name = "COUNT"
    )]
    pub(crate) queue_capacity: NonZeroUsize,

    /// Largest request body, decompressed; a larger one is refused (413)
    #[arg(
        long,
        env = "MAX_BODY_BYTES",
        default_value = "1048576",
        value_name = "BYTES"
    )]
    pub(crate) max_body_bytes: NonZeroUsize,

    /// Memory for request bodies above 16 KiB (decompressed) that are under way, all together; beyond it
    /// clients are told to come back (429); at least the largest body
    #[arg(
        long,
        env = "MAX_PENDING_BYTES",
        default_value = "67108864",
        value_name = "BYTES"
    )]
    pub(crate) max_pending_bytes: NonZeroUsize,

    /// How long a client waits at most for a prediction (504); from 0.01 to 100
    #[arg(long, env = "REQUEST_TIMEOUT_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = request_timeout)]
    pub(crate) request_timeout_seconds: Duration,

    #[command(flatten)]
    pub(crate) connections: ConnectionArguments,

    /// File of API keys, one a line, # begins a comment; read again when it changes. With it,
    /// every request but for health needs one of them
    #[arg(long, env = "API_KEYS_FILE", value_name = "PATH")]
    pub(crate) api_keys_file: Option<OsString>,

    /// After SIGTERM: how long to go on serving what still arrives, while /health says 503
    #[arg(long, env = "GRACE_SECONDS", default_value = "5", value_name = "SECONDS",
          value_parser = seconds)]
    pub(crate) grace_seconds: Duration,

    /// After the grace: how long requests in flight may take before they are cut
    #[arg(long, env = "HARD_STOP_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = seconds)]
    pub(crate) hard_stop_seconds: Duration,

    /// Form of the log on standard error
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "plain",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,

    /// Which requests get a line in the log
    #[arg(long, env = "REQUEST_LOG", default_value = "all", value_name = "WHICH")]
    pub(crate) request_log: RequestLog,

    /// Where to send traces (OTLP over HTTP), such as `http://localhost:4318` [default: nowhere]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL",
          value_parser = otlp_endpoint)]
    pub(crate) otlp_endpoint: Option<String>,
}

/// How much a client may ask of a connection.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArguments {
    /// Connections at the same time; further ones wait until one is closed
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    pub(crate) max_connections: NonZeroUsize,

    /// Largest head of a request; a larger one is refused (431); at least 8192
    #[arg(long, env = "MAX_HEADER_BYTES", default_value = "32768", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(8192..=1_048_576))]
    pub(crate) max_header_bytes: u32,

    /// How long a connection may be idle, or take to send the head of a request; from 1. Longer
    /// than the router keeps its own connections (30 s)
    #[arg(long, env = "IDLE_TIMEOUT_SECONDS", default_value = "75", value_name = "SECONDS",
          value_parser = idle_timeout)]
    pub(crate) idle_timeout_seconds: Duration,
}

/// Where the server listens; its own health check asks there.
#[derive(Debug, Clone, Copy, Args)]
pub struct AddressArguments {
    /// Address to listen on; 0.0.0.0 in a container
    #[arg(long, env = "HOST", default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) host: IpAddr,

    /// Port to listen on; 0 takes a free one, which the log names
    #[arg(long, env = "PORT", default_value = "8081", value_name = "PORT")]
    pub(crate) port: u16,
}

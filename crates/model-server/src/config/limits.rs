use std::{num::NonZeroUsize, time::Duration};

use clap::{Args, builder::RangedI64ValueParser};

use crate::config::parsers::{idle_timeout, positive, request_timeout};

/// A request may have at most this fraction of the queue's capacity in texts. A larger one would fit only into
/// an empty queue, and could be refused forever.
const REQUEST_SHARE_OF_QUEUE: usize = 4;

/// The limits of the queue, of requests, and of connections.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limits {
    /// Texts that may wait in the queue; further ones get 429. One request may have a quarter of them
    #[arg(
        long,
        env = "QUEUE_CAPACITY",
        default_value = "1024",
        value_name = "COUNT"
    )]
    pub queue_capacity: NonZeroUsize,

    /// Largest request body after decompression; a larger one gets 413
    #[arg(
        long,
        env = "MAX_BODY_BYTES",
        default_value = "1048576",
        value_name = "BYTES",
        value_parser = positive
    )]
    pub max_body_bytes: usize,

    /// Memory for all request bodies above 16 KiB in flight, after decompression; further ones get 429. At
    /// least the largest body
    #[arg(
        long,
        env = "MAX_PENDING_BYTES",
        default_value = "67108864",
        value_name = "BYTES",
        value_parser = positive
    )]
    pub max_pending_bytes: usize,

    /// How long a client waits for a prediction before it gets 504; from 0.01 to 100
    #[arg(
        long = "request-timeout-seconds",
        env = "REQUEST_TIMEOUT_SECONDS",
        default_value = "30",
        value_name = "SECONDS",
        value_parser = request_timeout
    )]
    pub request_timeout: Duration,

    /// The limits of connections.
    #[command(flatten)]
    pub connections: ConnectionLimits,
}

impl Limits {
    /// The most texts in one request.
    pub(crate) fn max_texts(&self) -> usize {
        self.queue_capacity.get().div_ceil(REQUEST_SHARE_OF_QUEUE)
    }
}

/// The limits of connections.
#[derive(Debug, Clone, Copy, Args)]
pub struct ConnectionLimits {
    /// Concurrent connections; further ones wait until one closes
    #[arg(
        long = "max-connections",
        env = "MAX_CONNECTIONS",
        default_value = "4096",
        value_name = "COUNT",
        value_parser = positive
    )]
    pub connections: usize,

    /// Largest head of a request, at least 8192; a larger one gets 431
    #[arg(
        long = "max-header-bytes",
        env = "MAX_HEADER_BYTES",
        default_value = "32768",
        value_name = "BYTES",
        value_parser = RangedI64ValueParser::<usize>::new().range(8192..=1_048_576)
    )]
    pub header_bytes: usize,

    /// How long a connection may be idle, or take to send the head of a request; at least 1. Must be longer
    /// than the router keeps idle connections (30 s)
    #[arg(
        long = "idle-timeout-seconds",
        env = "IDLE_TIMEOUT_SECONDS",
        default_value = "75",
        value_name = "SECONDS",
        value_parser = idle_timeout
    )]
    pub idle: Duration,
}

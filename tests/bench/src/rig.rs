//! What is measured: two model servers, and two routers in front of the same two.

use std::{
    fs, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use end_to_end::{PortBlock, Stack, Traffic, Watch, repository};
use serde_json::Value;

use crate::plain_router::PlainRouter;

/// Nothing is deployed here, only switched.
const UNWATCHED: Watch = Watch(Duration::from_secs(1));

/// The two servers; each holds one release throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    /// It serves v1.
    Blue,
    /// It serves v2.
    Green,
}

impl Color {
    pub(crate) const BOTH: [Self; 2] = [Self::Blue, Self::Green];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Blue => "v1",
            Self::Green => "v2",
        }
    }

    /// The color's server, without a router.
    pub(crate) fn server(self, ports: &PortBlock) -> SocketAddr {
        let port = match self {
            Self::Blue => ports.blue(),
            Self::Green => ports.green(),
        };
        ([127, 0, 0, 1], port).into()
    }
}

/// A switch command, as the one who gave it saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command {
    pub(crate) begun: Instant,
    pub(crate) returned: Instant,
}

/// Everything that runs while it is measured. Dropping it stops all of it.
pub(crate) struct Rig {
    /// Before the stack, in whose directory it lives: fields are dropped in this order.
    pub(crate) plain_router: PlainRouter,
    pub(crate) stack: Stack,
    sentences: Vec<String>,
}

impl Rig {
    /// Starts both servers and both routers; blue is active everywhere.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let stack = Stack::of_processes("model-server", UNWATCHED)?;
        stack.expect(0, &["up"]).await?;
        // A standby would answer in the place of an active color that fails, by the flag only.
        for flag in ["fit-blue", "fit-green"] {
            let path = stack.path("run/flags").join(flag);
            anyhow::ensure!(!path.exists(), "{flag} is set: the ways are not equal");
        }
        Ok(Self {
            plain_router: PlainRouter::start(&stack).await?,
            sentences: sentences()?,
            stack,
        })
    }

    /// Clients of a router, with real sentences.
    pub(crate) fn traffic(
        &self,
        router: SocketAddr,
        connections: usize,
        pause: Duration,
    ) -> Traffic {
        Traffic::start(router, connections, pause, self.sentences.clone())
    }

    /// Switches this project's router as a person would.
    pub(crate) async fn switch_by_deployer(&self, color: Color) -> anyhow::Result<Command> {
        let begun = Instant::now();
        let run = self.stack.expect(0, &["switch", color.name()]).await?;
        Ok(Command {
            begun,
            returned: run.returned,
        })
    }

    /// Switches this project's router by its flag file and nothing else.
    pub(crate) fn switch_by_flag(&self, color: Color) -> anyhow::Result<Command> {
        let flag = self.stack.path("run/flags/green");
        let begun = Instant::now();
        match color {
            Color::Blue => fs::remove_file(&flag).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
            Color::Green => fs::write(&flag, ""),
        }
        .context("cannot set the flag")?;
        Ok(Command {
            begun,
            returned: Instant::now(),
        })
    }
}

fn sentences() -> anyhow::Result<Vec<String>> {
    let golden = fs::read_to_string(repository().join("models/sentiment/golden.jsonl"))?;
    golden
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["input"].to_string()))
        .collect()
}

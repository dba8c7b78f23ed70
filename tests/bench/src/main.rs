//! The parts of the benchmark that need the project's Rust code. `tests/bench/run.py` runs each of them as a
//! process, and reads the JSON that it prints to standard output.

mod generate;
mod targets;
mod traffic;

use std::{fs, io::Write as _, path::Path, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use end_to_end::{BakeDuration, Stack};
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Parts of the benchmark. SIGTERM ends each of them.
#[derive(Parser)]
enum Part {
    /// Serve a bare axum handler that parses a text and rejects it like the model server
    BareHandler,

    /// Serve responses after random waits with a known distribution
    Paced {
        /// Delay the requests that arrive from 1.0 to 1.5 s and from 3.0 to 3.5 s of each round
        #[arg(long)]
        stalls: bool,
    },

    /// Run the router and two model servers, v1 on blue and v2 on green
    Stack,

    /// Send requests and print a record of each
    Traffic(traffic::Arguments),

    /// Send requests with the deployer's load generator
    Generate(generate::Arguments),
}

fn main() -> anyhow::Result<()> {
    let part = Part::parse();
    let mut runtime = match part {
        // One thread, so that the client with its many connections has the other cores.
        Part::Paced { .. } => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(run(part))
}

async fn run(part: Part) -> anyhow::Result<()> {
    match part {
        Part::BareHandler => targets::serve_bare_handler().await,
        Part::Paced { stalls } => targets::serve_paced(stalls).await,
        Part::Stack => run_stack().await,
        Part::Traffic(arguments) => traffic::run(arguments).await,
        Part::Generate(arguments) => generate::run(arguments).await,
    }
}

async fn run_stack() -> anyhow::Result<()> {
    // Handlers come first: by default a signal would end this program and leave the stack running.
    let stop = stop_signal()?;
    // The benchmark deploys nothing, so the duration of the bake has no effect.
    let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(1)))?;
    stack.expect_exit(0, &["up"]).await?;
    print(&json!({
        "directory": stack.path(""),
        "router": stack.ports().router(),
        "plain": stack.ports().metrics(),
        "blue": stack.ports().blue(),
        "green": stack.ports().green(),
    }))?;
    stop.await;
    Ok(())
}

/// Returns a future that resolves at the first SIGTERM or SIGINT after this call.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

/// Prints a value as one line to standard output.
fn print(value: &Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{value}").context("cannot write to standard output")
}

/// Returns the lines of a file. Each line is the body of a request.
fn read_bodies(path: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(
        !text.is_empty(),
        "{} has no lines, but each line must be the body of a request",
        path.display()
    );
    Ok(text.lines().map(str::to_owned).collect())
}

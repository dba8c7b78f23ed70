//! `make torture` kills deployers at random moments under load, and then switches traffic back and forth. It fails
//! if one request fails.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use end_to_end::{BakeDuration, Stack, Torture};

/// Kills deployers under load, and then switches traffic back and forth.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of deployers to kill at random moments
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Minutes for which traffic is switched back and forth afterwards
    #[arg(long, default_value = "60", value_name = "COUNT")]
    minutes: u64,
    /// Seed of an earlier run, to kill at the same moments
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let steps = async {
        kill_deployers(arguments.kills, seed).await?;
        switch_back_and_forth(Duration::from_mins(arguments.minutes)).await
    };
    let result = tokio::select! {
        result = steps => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted by Ctrl-C")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!(
                "torture failed: {error:#}\nRepeat it with --seed {seed}."
            ));
            ExitCode::FAILURE
        }
    }
}

async fn kill_deployers(kills: usize, seed: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut torture = Torture::start().await?;
    let deployment_duration = torture.run_deployment().await?;
    for number in 0..kills {
        progress(&format!("{number} of {kills} deployers killed"));
        torture
            .kill_after(deployment_duration.mul_f64(random.f64()))
            .await?;
    }
    let (phases_found, log) = torture.stop().await;
    log.ensure_none_failed()?;
    say(&format!(
        "{kills} deployers killed, in the phases {phases_found:?}; {} requests, 0 failed",
        log.requests.len()
    ));
    Ok(())
}

async fn switch_back_and_forth(duration: Duration) -> anyhow::Result<()> {
    /// The record of requests is checked and dropped this often, so that it does not fill the memory.
    const CHECK_INTERVAL: Duration = Duration::from_mins(1);

    let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(1)))?;
    stack.expect_exit(0, &["up"]).await?;
    let started = Instant::now();
    let (mut switches, mut requests) = (0_usize, 0);
    while started.elapsed() < duration {
        let traffic = stack.start_traffic(64, Duration::from_millis(5))?;
        let interval_start = Instant::now();
        while interval_start.elapsed() < CHECK_INTERVAL.min(duration) {
            for color in ["green", "blue"] {
                stack.expect_exit(0, &["switch", color]).await?;
                switches += 1;
            }
        }
        let log = traffic.stop().await;
        log.ensure_none_failed()?;
        requests += log.requests.len();
        progress(&format!(
            "{switches} switches, {requests} requests, 0 failed"
        ));
    }
    say(&format!(
        "{switches} switches, {requests} requests, 0 failed"
    ));
    Ok(())
}

fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

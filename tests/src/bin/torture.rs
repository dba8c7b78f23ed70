//! `make torture`: kills deployers at random moments under load, and then switches back and forth. Not one
//! request may fail.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use end_to_end::{Bake, Stack, Torture};

/// Kills deployers, and switches back and forth, under load.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of deployers to kill at random moments
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// How long to switch traffic back and forth afterwards
    #[arg(long, default_value = "60", value_name = "COUNT")]
    minutes: u64,
    /// Seed of an earlier run, to repeat its moments
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let run = async {
        kill(arguments.kills, seed).await?;
        switch(Duration::from_mins(arguments.minutes)).await
    };
    let run = tokio::select! {
        run = run => run,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("it was interrupted")),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("failed, with --seed {seed}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn kill(kills: usize, seed: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut torture = Torture::begin().await?;
    let whole = torture.whole_deployment().await?;
    for number in 0..kills {
        progress(&format!("{number} of {kills} deployers killed"));
        torture.kill_after(whole.mul_f64(random.f64())).await?;
    }
    let (found, log) = torture.end().await;
    log.ensure_none_failed()?;
    say(&format!(
        "{kills} deployers killed, found {found:?}; {} requests, 0 failed",
        log.answers.len()
    ));
    Ok(())
}

async fn switch(duration: Duration) -> anyhow::Result<()> {
    /// Records are summed up this often, so that they do not fill the memory.
    const ACCOUNT: Duration = Duration::from_mins(1);

    let stack = Stack::of_processes("model-server", Bake(Duration::from_secs(1)))?;
    stack.expect(0, &["up"]).await?;
    let began = Instant::now();
    let (mut switches, mut requests) = (0_usize, 0);
    while began.elapsed() < duration {
        let traffic = stack.traffic(64, Duration::from_millis(5))?;
        let account = Instant::now();
        while account.elapsed() < ACCOUNT.min(duration) {
            for color in ["green", "blue"] {
                stack.expect(0, &["switch", color]).await?;
                switches += 1;
            }
        }
        let log = traffic.stop().await;
        log.ensure_none_failed()?;
        requests += log.answers.len();
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

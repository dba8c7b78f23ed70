//! What the figures were taken on, and whether it had other things to do.

use std::{fs, time::Duration};

use anyhow::Context as _;
use tokio::process::Command;

/// Long enough to see a compiler at work, short enough to be repeated between rounds.
const LOOK: Duration = Duration::from_millis(500);
/// Above this share of all cores something else was at work.
const QUIET: f64 = 0.20;

/// The machine, and what else it did.
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) nginx: String,
    /// Load averages over 1, 5 and 15 minutes, before the first round.
    pub(crate) load: String,
    /// The shares of all cores that were in use whenever the benchmark itself did nothing: before
    /// the first round, between rounds, after the last one.
    pub(crate) used_by_others: Vec<f64>,
}

impl Machine {
    /// Looks before anything is started.
    pub(crate) async fn look() -> anyhow::Result<Self> {
        let load = read("/proc/loadavg")?;
        let mut machine = Self {
            date: said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).await?,
            processor: processor()?,
            cores: std::thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            nginx: said_by("nginx", &["-v"])
                .await?
                .replace("nginx version: ", ""),
            load: load
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(", "),
            used_by_others: Vec::new(),
        };
        machine.look_for_others().await?;
        Ok(machine)
    }

    /// Looks who else is at work. Nothing of the benchmark may be busy at that moment.
    pub(crate) async fn look_for_others(&mut self) -> anyhow::Result<()> {
        self.used_by_others.push(share_in_use().await?);
        Ok(())
    }

    /// Whether nothing else was at work, as far as the looks tell.
    pub(crate) fn was_quiet(&self) -> bool {
        self.used_by_others.iter().all(|&share| share < QUIET)
    }
}

/// The build profile of this program and of those beside it, which are all built in one go.
pub(crate) fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "dev (dependencies, the inference engine among them, at opt-level 3; own crates at 1)"
    } else {
        "release"
    }
}

fn processor() -> anyhow::Result<String> {
    let all = read("/proc/cpuinfo")?;
    let model = all.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(model
        .map_or("unknown", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        })
        .to_owned())
}

/// What a program prints on either stream: `nginx -v` uses the other one.
async fn said_by(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

async fn share_in_use() -> anyhow::Result<f64> {
    let (busy, total) = ticks()?;
    tokio::time::sleep(LOOK).await;
    let (busy_then, total_then) = ticks()?;
    Ok((busy_then - busy) as f64 / (total_then - total).max(1) as f64)
}

/// Ticks of all cores since the start of the machine: in use, and all. See proc(5).
fn ticks() -> anyhow::Result<(u64, u64)> {
    const IDLE_AND_WAITING: [usize; 2] = [3, 4];
    // Guests' ticks follow, which are contained in the first two.
    const KINDS: usize = 8;

    let stat = read("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks = line
        .split_whitespace()
        .skip(1)
        .take(KINDS)
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    let total = ticks.iter().sum();
    let idle: u64 = IDLE_AND_WAITING
        .iter()
        .filter_map(|&kind| ticks.get(kind))
        .sum();
    Ok((total - idle, total))
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

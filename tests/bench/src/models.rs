//! The model server beside its peers, on the same models.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use end_to_end::{PortBlock, repository};
use tokio::process::Command;

use crate::{
    contender::{ALL, Contender, ONNXRUNTIME, RTEN, Running, library},
    machine::Machine,
    progress,
    statistics::median,
    texts::Mix,
    wrk::{Bodies, Sample},
};

pub(crate) const ROUNDS: usize = 3;
pub(crate) const SECONDS: u64 = 3;
/// Load before what counts: a server that stood still finds its memory cold.
pub(crate) const WARM_UP_SECONDS: u64 = 1;
/// How often each server is started for the time that this takes.
pub(crate) const STARTS: usize = 3;
/// From when a server goes on to its first request: it may have something to make up for.
const PAUSE: Duration = Duration::from_millis(300);

/// A model that all servers load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// The first shipped release: microseconds a text.
    Small,
    /// The second shipped release.
    Second,
    /// all-MiniLM-L6-v2 with a two-class head: milliseconds a text.
    MiniLm,
    /// The same, quantized dynamically to 8 bits.
    MiniLmInt8,
}

impl Model {
    const COMPARED: [Self; 3] = [Self::Small, Self::MiniLm, Self::MiniLmInt8];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "v1",
            Self::Second => "v2",
            Self::MiniLm => "MiniLM fp32",
            Self::MiniLmInt8 => "MiniLM int8",
        }
    }

    /// Where its release lies.
    pub(crate) fn directory(self) -> PathBuf {
        repository().join(match self {
            Self::Small => "models/sentiment/v1",
            Self::Second => "models/sentiment/v2",
            Self::MiniLm => "target/minilm/minilm/fp32",
            Self::MiniLmInt8 => "target/minilm/minilm/int8",
        })
    }

    fn loads(self) -> &'static [(Mix, usize)] {
        match self {
            Self::Second => &[],
            Self::Small | Self::MiniLm | Self::MiniLmInt8 => &[
                (Mix::Twenty, 1),
                (Mix::Twenty, 32),
                (Mix::Twenty, 128),
                (Mix::Mixed, 32),
            ],
        }
    }
}

/// The figures of one server under one load.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) contender: Contender,
    samples: Vec<Sample>,
}

impl Row {
    /// Requests a second that were answered with success: who turns clients away is not fast.
    pub(crate) fn per_second(&self) -> f64 {
        median(self.samples.iter().map(|it| it.succeeded_per_second))
    }

    pub(crate) fn p50(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.p50))
    }

    pub(crate) fn p99(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.p99))
    }

    pub(crate) fn failed(&self) -> u64 {
        self.samples.iter().map(|sample| sample.failed).sum()
    }
}

/// All servers under one load.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) mix: Mix,
    pub(crate) connections: usize,
    pub(crate) rows: Vec<Row>,
    /// Texts a second that each engine of this server reaches with nothing around it, of the same
    /// texts; with ONNX Runtime, and with rten.
    pub(crate) limits: [f64; 2],
}

impl Case {
    /// The most requests a second of any peer.
    pub(crate) fn best_peer(&self) -> f64 {
        self.peers().map(Row::per_second).fold(f64::NAN, f64::max)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.contender.is_peer)
    }

    /// The limit of the engine of a server of this project.
    pub(crate) fn limit_of(&self, contender: &Contender) -> Option<f64> {
        let [onnxruntime, rten] = self.limits;
        match contender.name {
            name if name == ONNXRUNTIME.name => Some(onnxruntime),
            name if name == RTEN.name => Some(rten),
            _ => None,
        }
    }
}

/// How a server starts and what it holds afterwards.
#[derive(Debug)]
pub(crate) struct Weight {
    pub(crate) contender: Contender,
    /// Seconds from its start to its first answer, the median of a few.
    pub(crate) started_in: f64,
    /// Megabytes after all loads.
    pub(crate) memory: f64,
}

/// Everything about one model.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) model: Model,
    pub(crate) cases: Vec<Case>,
    pub(crate) weights: Vec<Weight>,
}

/// Measures all servers on all models; of each model all servers run at once, and take turns.
pub(crate) async fn measure(machine: &mut Machine) -> anyhow::Result<Vec<Comparison>> {
    let directory = tempfile::tempdir()?;
    let mut comparisons = Vec::new();
    for model in Model::COMPARED {
        comparisons.push(compare(model, directory.path(), machine).await?);
    }
    Ok(comparisons)
}

/// This project's server has to answer whatever it is asked here.
pub(crate) fn require_no_failure(comparisons: &[Comparison]) -> anyhow::Result<()> {
    let cases = comparisons.iter().flat_map(|it| &it.cases);
    let rows = cases.flat_map(|case| &case.rows);
    let own = rows.filter(|row| !row.contender.is_peer);
    let failed: u64 = own.map(Row::failed).sum();
    anyhow::ensure!(failed == 0, "{failed} requests to this server failed");
    Ok(())
}

async fn compare(
    model: Model,
    scratch: &Path,
    machine: &mut Machine,
) -> anyhow::Result<Comparison> {
    let mut servers = Vec::new();
    let mut starts = vec![Vec::new(); ALL.len()];
    // Not those of the start before: not every server takes a port that was just given back.
    let mut ports;
    // One more than count: whoever is the first to start reads the files from the disk.
    for start in 0..=STARTS {
        progress(&format!("{}: start {start} of {STARTS}", model.name()));
        ports = [PortBlock::take()?, PortBlock::take()?, PortBlock::take()?];
        let numbers = ports.iter().flat_map(PortBlock::all);
        for ((contender, port), starts) in ALL.into_iter().zip(numbers).zip(&mut starts) {
            let server = contender.start(&model.directory(), port, &[]).await?;
            if start > 0 {
                starts.push(server.started_in.as_secs_f64());
            }
            if start == STARTS {
                server.pause()?;
                servers.push(server);
            } else {
                server.stop().await;
            }
        }
    }
    let mut cases = Vec::new();
    for (mix, connections) in model.loads() {
        cases.push(case(model, *mix, *connections, &servers, scratch).await?);
        machine.look_for_others().await?;
    }
    let mut weights = Vec::new();
    for (server, starts) in servers.into_iter().zip(starts) {
        weights.push(Weight {
            contender: server.contender,
            started_in: median(starts),
            memory: server.memory()?,
        });
        server.stop().await;
    }
    Ok(Comparison {
        model,
        cases,
        weights,
    })
}

async fn case(
    model: Model,
    mix: Mix,
    connections: usize,
    servers: &[Running],
    scratch: &Path,
) -> anyhow::Result<Case> {
    let texts = mix.texts()?;
    let mut rows = Vec::new();
    let mut bodies = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        let of_text = |text: &String| server.contender.body(text);
        let all: Vec<String> = texts.iter().map(of_text).collect();
        bodies.push(Bodies::write(&scratch.join(format!("{number}.lua")), &all)?);
        rows.push(Row {
            contender: server.contender,
            samples: Vec::new(),
        });
    }
    let list = scratch.join("texts.txt");
    fs::write(&list, texts.join("\n"))?;
    let mut limits = [Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        progress(&format!(
            "{}, {}, {connections} connections, round {round} of {ROUNDS}",
            model.name(),
            mix.name()
        ));
        for turn in 0..servers.len() {
            // Nobody is always the first after a pause, or always behind the same other one.
            let at = (turn + round) % servers.len();
            let server = &servers[at];
            let path = server.contender.path();
            server.resume()?;
            tokio::time::sleep(PAUSE).await;
            let post = |seconds| bodies[at].post(server.address, path, connections, seconds);
            post(WARM_UP_SECONDS).await?;
            rows[at].samples.push(post(SECONDS).await?);
            server.pause()?;
        }
        for (engine, samples) in ["onnxruntime", "rten"].into_iter().zip(&mut limits) {
            samples.push(limit(engine, model, &list).await?);
        }
    }
    Ok(Case {
        mix,
        connections,
        rows,
        limits: limits.map(median),
    })
}

/// Texts a second by `model-server measure`.
async fn limit(engine: &str, model: Model, texts: &Path) -> anyhow::Result<f64> {
    let directory = model.directory();
    let part = |path: Option<&Path>| path.and_then(Path::file_name).map(PathBuf::from);
    let output = Command::new(env::current_exe()?.with_file_name("model-server"))
        .args([
            "measure",
            "--engine",
            engine,
            "--seconds",
            &SECONDS.to_string(),
        ])
        .arg("--texts")
        .arg(texts)
        .env("MODEL_VERSION", part(Some(&directory)).unwrap_or_default())
        .env("MODEL_NAME", part(directory.parent()).unwrap_or_default())
        .env(
            "MODEL_ROOT",
            directory
                .ancestors()
                .nth(2)
                .context("a release has a root")?,
        )
        .env("ONNXRUNTIME_LIBRARY", library())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_mins(1), output).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said
        .split_whitespace()
        .next()
        .and_then(|rate| rate.parse().ok());
    rate.with_context(|| {
        format!(
            "model-server measure gave no figure: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

//! The deployer's load generator beside wrk, on the same targets in turns.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Router, http::StatusCode, routing::post};
use deployer::{
    adapters::load::generate,
    examples::Example,
    load::{Load, LoadPlan},
};
use end_to_end::PortBlock;
use tokio::{net::TcpListener, time::sleep};

use crate::{
    contender::RTEN,
    machine::Machine,
    models::Model,
    progress,
    statistics::median,
    texts::Mix,
    wrk::{Bodies, Sample},
};

pub(crate) const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const SECONDS: u64 = 5;
/// The share of wrk's requests that the generator must reach at least.
const LEAST: f64 = 0.5;
/// By how much the percentiles of the two may differ.
const APART: f64 = 0.05;
/// By how much its percentiles may differ from the true ones.
const OFF: f64 = 0.02;
/// Milliseconds that the paced target waits, evenly spread.
pub(crate) const PACE: [u64; 2] = [10, 50];

/// One round, by both.
#[derive(Debug, Clone, Copy)]
struct Round {
    wrk: Sample,
    ours: Sample,
    /// Milliseconds by the target's own clock while the generator asked: p50 and p99; none of a
    /// target that does not tell.
    own: Option<[f64; 2]>,
}

/// All rounds on one target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    rounds: Vec<Round>,
}

/// Both targets.
#[derive(Debug)]
pub(crate) struct Generator {
    /// As fast as it can: what limits it is what is left of the processor.
    pub(crate) fast: Target,
    /// One whose latencies do not depend on who asks.
    pub(crate) paced: Target,
}

impl Target {
    /// The medians of a figure: wrk's and ours.
    pub(crate) fn both(&self, figure: impl Fn(&Sample) -> f64) -> [f64; 2] {
        [
            median(self.rounds.iter().map(|round| figure(&round.wrk))),
            median(self.rounds.iter().map(|round| figure(&round.ours))),
        ]
    }

    /// The medians of the ratios of our p50 and p99 to what the target itself took.
    pub(crate) fn ratio_to_own(&self) -> Option<[f64; 2]> {
        let ratios = |at: usize, figure: fn(&Sample) -> f64| {
            let rounds = self.rounds.iter();
            median(rounds.filter_map(move |round| Some(figure(&round.ours) / round.own?[at])))
        };
        let told = self.rounds.iter().all(|round| round.own.is_some());
        told.then(|| {
            [
                ratios(0, |sample| sample.p50),
                ratios(1, |sample| sample.p99),
            ]
        })
    }

    /// The median of the rounds' ratios: ours to wrk's.
    pub(crate) fn ratio(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(
            self.rounds
                .iter()
                .map(|round| figure(&round.ours) / figure(&round.wrk)),
        )
    }
}

impl Generator {
    /// Whether it is as it should be.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        let rate = self.fast.ratio(|sample| sample.per_second);
        anyhow::ensure!(
            rate >= LEAST,
            "the generator reaches {rate:.2} of wrk's requests"
        );
        for (name, ratio) in [
            ("p50", self.paced.ratio(|sample| sample.p50)),
            ("p99", self.paced.ratio(|sample| sample.p99)),
        ] {
            anyhow::ensure!(
                (ratio - 1.0).abs() <= APART,
                "{name} is {ratio:.3} times wrk's"
            );
        }
        let own = self.paced.ratio_to_own();
        for ratio in own.context("the server that waits did not tell how long it took")? {
            anyhow::ensure!(
                (ratio - 1.0).abs() <= OFF,
                "a percentile is {ratio:.3} times the true one"
            );
        }
        Ok(())
    }
}

/// Measures both targets.
pub(crate) async fn measure(machine: &mut Machine) -> anyhow::Result<Generator> {
    let ports = PortBlock::take()?;
    let server = RTEN
        .start(&Model::Small.directory(), ports.router(), &[])
        .await?;
    let bodies: Vec<String> = Mix::Twenty
        .texts()?
        .iter()
        .map(|text| RTEN.body(text))
        .collect();
    let fast = on("the model server, v1", server.address, &bodies).await?;
    server.stop().await;
    machine.look_for_others().await?;
    let paced = on("a server that waits", paced_server().await?, &bodies).await?;
    Ok(Generator { fast, paced })
}

async fn on(name: &'static str, address: SocketAddr, bodies: &[String]) -> anyhow::Result<Target> {
    let directory = tempfile::tempdir()?;
    let wrk = Bodies::write(&directory.path().join("bodies.lua"), bodies)?;
    let examples: Vec<Example> = bodies
        .iter()
        .map(|body| Example {
            body: body.clone(),
            expect: None,
        })
        .collect();
    let plan = LoadPlan {
        concurrency: CONNECTIONS,
        duration: Duration::from_secs(SECONDS),
        rate: None,
        timeout: Duration::from_secs(20),
    };
    let url = format!("http://{address}/predict");
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        progress(&format!("load on {name}, round {round} of {ROUNDS}"));
        let wrk = wrk.post(address, "/predict", CONNECTIONS, SECONDS).await?;
        TOOK.lock().expect("nobody panics").clear();
        let ours = sample(&generate(&url, &examples, None, plan).await?);
        anyhow::ensure!(
            ours.failed + wrk.failed == 0,
            "requests failed: {ours:?} {wrk:?}"
        );
        // The first one warms up.
        if round > 0 {
            rounds.push(Round {
                wrk,
                ours,
                own: own(),
            });
        }
    }
    Ok(Target { name, rounds })
}

/// The generator's figures in wrk's terms: as they were met, without correction.
fn sample(load: &Load) -> Sample {
    let milliseconds = |at| load.latencies.quantile(at).as_secs_f64() * 1e3;
    let seconds = load.elapsed.as_secs_f64();
    Sample {
        per_second: load.tally.requests as f64 / seconds,
        succeeded_per_second: load.throughput(),
        p50: milliseconds(0.5),
        p99: milliseconds(0.99),
        failed: load.tally.failed,
    }
}

/// How long the paced server took, by its own clock, in milliseconds.
static TOOK: Mutex<Vec<f64>> = Mutex::new(Vec::new());

/// Its p50 and p99; none when it was not asked.
fn own() -> Option<[f64; 2]> {
    let mut took = TOOK.lock().expect("nobody panics");
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took.get(took.len() * percent / 100).copied();
    Some([at(50)?, at(99)?])
}

/// Ends with the program.
async fn paced_server() -> anyhow::Result<SocketAddr> {
    async fn answer() -> StatusCode {
        static ASKED: AtomicU64 = AtomicU64::new(0);

        let began = Instant::now();
        let [least, most] = PACE;
        // Steps of a prime number visit every millisecond alike, in no order that a client has.
        let number = ASKED.fetch_add(1, Ordering::Relaxed) * 17;
        sleep(Duration::from_millis(least + number % (most - least + 1))).await;
        let took = began.elapsed().as_secs_f64() * 1e3;
        TOOK.lock().expect("nobody panics").push(took);
        StatusCode::OK
    }

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/predict", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

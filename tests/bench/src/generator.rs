//! The deployer's load generator beside wrk and oha, each on the same target in turns.

use std::{net::SocketAddr, time::Duration};

use deployer::{
    adapters::load::generate,
    examples::Example,
    latency::Latencies,
    load::{Load, LoadPlan},
};
use end_to_end::PortBlock;

use crate::{
    contender::RTEN,
    machine::Machine,
    models::Model,
    oha,
    paced::Paced,
    progress,
    statistics::median,
    texts::Mix,
    wrk::{Bodies, Sample},
};

/// As many as the gate `load` uses where nothing else is set.
pub(crate) const CONNECTIONS: usize = 500;
pub(crate) const ROUNDS: usize = 5;
pub(crate) const SECONDS: u64 = 5;
/// Requests a second in the open loop: within a stall more are due than there are connections.
pub(crate) const RATE: f64 = 2_000.0;

/// One round, by both.
#[derive(Debug, Clone, Copy)]
struct Round {
    peer: Sample,
    ours: Sample,
    /// How many connections were waiting for an answer, in the mean, while the generator asked.
    waiting: f64,
    /// Milliseconds by the target's own clock while the generator asked: p50, p90 and p99; none of a
    /// target that does not tell.
    own: Option<[f64; 3]>,
}

/// All rounds on one target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) peer: &'static str,
    rounds: Vec<Round>,
}

/// All targets.
#[derive(Debug)]
pub(crate) struct Generator {
    /// As fast as it can, beside wrk: what limits it is what is left of the processor.
    pub(crate) fast: Target,
    /// One that leaves the processor free, beside oha: both must see the same.
    pub(crate) closed: Target,
    /// The same at a fixed rate, and it stalls.
    pub(crate) open: Target,
}

/// The percentiles that are compared.
pub(crate) const PERCENTILES: [(&str, Figure); 3] = [
    ("p50", |sample| sample.p50),
    ("p90", |sample| sample.p90),
    ("p99", |sample| sample.p99),
];

pub(crate) type Figure = fn(&Sample) -> f64;

impl Target {
    /// The medians of a figure: the peer's and ours.
    pub(crate) fn both(&self, figure: Figure) -> [f64; 2] {
        [
            self.median(|round| figure(&round.peer)),
            self.median(|round| figure(&round.ours)),
        ]
    }

    /// The median of the rounds' ratios: ours to the peer's.
    pub(crate) fn ratio(&self, figure: Figure) -> f64 {
        self.median(|round| figure(&round.ours) / figure(&round.peer))
    }

    /// The medians of the percentiles by the target's own clock, if it tells.
    pub(crate) fn own(&self) -> Option<[f64; 3]> {
        let told = self.rounds.iter().all(|round| round.own.is_some());
        told.then(|| {
            [0, 1, 2].map(|at| self.median(|round| round.own.map_or(f64::NAN, |own| own[at])))
        })
    }

    /// How many connections were waiting for an answer, in the mean.
    pub(crate) fn waiting(&self) -> f64 {
        self.median(|round| round.waiting)
    }

    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }
}

/// What a ratio is to be.
#[derive(Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) measured: f64,
}

impl Goal {
    /// Equal, but for so much.
    fn equal(what: String, apart: f64, measured: f64) -> Self {
        Self {
            what,
            least: 1.0 - apart,
            most: 1.0 + apart,
            measured,
        }
    }

    pub(crate) fn is_reached(&self) -> bool {
        (self.least..=self.most).contains(&self.measured)
    }
}

impl Generator {
    /// What it is to reach, and what it did.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let mut goals = vec![Goal {
            what: format!("{CONNECTIONS} connections: requests/s ÷ wrk's"),
            least: 0.5,
            most: f64::INFINITY,
            measured: self.fast.ratio(|sample| sample.per_second),
        }];
        for (name, target) in [("closed loop", &self.closed), ("open loop", &self.open)] {
            goals.extend(PERCENTILES.map(|(percentile, figure)| {
                let what = format!("{name}: {percentile} ÷ oha's");
                Goal::equal(what, 0.05, target.ratio(figure))
            }));
        }
        let own = self.closed.own().unwrap_or([f64::NAN; 3]);
        for ((percentile, figure), own) in PERCENTILES.into_iter().zip(own) {
            let what = format!("closed loop: {percentile} ÷ the server's own");
            let [_, ours] = self.closed.both(figure);
            goals.push(Goal::equal(what, 0.02, ours / own));
        }
        let [_, rate] = self.open.both(|sample| sample.per_second);
        let what = "open loop: requests/s ÷ the rate that was asked for".to_owned();
        goals.push(Goal::equal(what, 0.01, rate / RATE));
        goals
    }

    /// Whether it is as it should be.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        for goal in self.goals() {
            anyhow::ensure!(
                goal.is_reached(),
                "the load generator misses a goal: {goal:?}"
            );
        }
        Ok(())
    }
}

/// Measures all targets.
pub(crate) async fn measure(machine: &mut Machine) -> anyhow::Result<Generator> {
    let bodies: Vec<String> = Mix::Twenty
        .texts()?
        .iter()
        .map(|text| RTEN.body(text))
        .collect();
    let fast = beside_wrk(&bodies).await?;
    machine.look_for_others().await?;
    let closed = beside_oha(&bodies, None).await?;
    machine.look_for_others().await?;
    let open = beside_oha(&bodies, Some(RATE)).await?;
    Ok(Generator { fast, closed, open })
}

async fn beside_wrk(bodies: &[String]) -> anyhow::Result<Target> {
    let ports = PortBlock::take()?;
    let server = RTEN
        .start(&Model::Small.directory(), ports.router(), &[])
        .await?;
    let directory = tempfile::tempdir()?;
    let wrk = Bodies::write(&directory.path().join("bodies.lua"), bodies)?;
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        progress(&format!("load beside wrk, round {round} of {ROUNDS}"));
        let peer = wrk
            .post(server.address, "/predict", CONNECTIONS, SECONDS)
            .await?;
        let load = load(server.address, bodies, None).await?;
        // As wrk corrects its own, by how often a connection sends a request.
        let each = load.tally.requests as f64 / CONNECTIONS as f64;
        let corrected = load.latencies.corrected(load.elapsed.div_f64(each));
        rounds.push(Round::new(peer, &load, &corrected, None)?);
    }
    server.stop().await;
    Ok(Target::new("wrk", rounds))
}

async fn beside_oha(bodies: &[String], rate: Option<f64>) -> anyhow::Result<Target> {
    let name = if rate.is_some() { "open" } else { "closed" };
    let server = Paced::start(rate.is_some())?;
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        progress(&format!(
            "{name} loop beside oha, round {round} of {ROUNDS}"
        ));
        server.begin();
        let peer = oha::post(server.address, &bodies[0], CONNECTIONS, SECONDS, rate).await?;
        server.begin();
        let load = load(server.address, bodies, rate).await?;
        // It knows nothing of requests that wait for a connection.
        let own = server.took().filter(|_| rate.is_none());
        rounds.push(Round::new(peer, &load, &load.latencies, own)?);
    }
    Ok(Target::new("oha", rounds))
}

impl Target {
    fn new(peer: &'static str, mut rounds: Vec<Round>) -> Self {
        // The first one warms up.
        rounds.remove(0);
        Self { peer, rounds }
    }
}

impl Round {
    fn new(
        peer: Sample,
        load: &Load,
        latencies: &Latencies,
        own: Option<[f64; 3]>,
    ) -> anyhow::Result<Self> {
        let ours = sample(load, latencies);
        anyhow::ensure!(
            ours.failed + peer.failed == 0,
            "requests failed: {:?} {ours:?} {peer:?}",
            load.errors
        );
        Ok(Self {
            peer,
            ours,
            waiting: ours.per_second * load.latencies.mean().as_secs_f64(),
            own,
        })
    }
}

async fn load(address: SocketAddr, bodies: &[String], rate: Option<f64>) -> anyhow::Result<Load> {
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
        rate,
        timeout: Duration::from_secs(20),
    };
    let url = format!("http://{address}/predict");
    Ok(generate(&url, &examples, None, plan).await?)
}

/// The generator's figures in the terms of other tools.
fn sample(load: &Load, latencies: &Latencies) -> Sample {
    let milliseconds = |at| latencies.quantile(at).as_secs_f64() * 1e3;
    Sample {
        per_second: load.tally.requests as f64 / load.elapsed.as_secs_f64(),
        succeeded_per_second: load.throughput(),
        p50: milliseconds(0.5),
        p90: milliseconds(0.9),
        p99: milliseconds(0.99),
        failed: load.tally.failed,
    }
}

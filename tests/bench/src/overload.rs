//! What becomes of a server that is asked for four times what it can give.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use end_to_end::{Answer, Log, PortBlock, Traffic};
use tokio::process::Command;

use crate::{contender::ONNXRUNTIME, machine::Machine, models::Model, progress, texts::Mix};

/// Clients before and after.
pub(crate) const CALM_CLIENTS: usize = 256;
const CALM: Duration = Duration::from_secs(10);
/// The queue's capacity: as the calm clients, so that none of them is ever turned away.
pub(crate) const QUEUE: &str = "256";
pub(crate) const FACTOR: f64 = 4.0;
pub(crate) const OVERLOAD: Duration = Duration::from_secs(30);
const OVERLOAD_CLIENTS: usize = 1024;
/// Texts that each of the server's cores answers at once when the queue is full.
const BATCH: usize = 4;
/// Measured ratios have this much slack.
const SLACK: f64 = 1.15;

/// The figures of some time.
#[derive(Debug)]
pub(crate) struct Phase {
    /// Requests a second that were answered with a prediction.
    pub(crate) answered: f64,
    /// Requests a second in all.
    pub(crate) asked: f64,
    /// Milliseconds that 50 % and 99 % of the answered requests took at most.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// What became of the others.
    pub(crate) others: BTreeMap<String, usize>,
}

/// Before, meanwhile, and in the first second afterwards.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) calm: Phase,
    pub(crate) meanwhile: Phase,
    pub(crate) first_second: Phase,
}

impl Overload {
    /// Whether it went as it should.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        let others = |phase: &Phase| {
            let mut others = phase.others.keys();
            others.all(|other| other.contains("status 429"))
        };
        anyhow::ensure!(
            others(&self.meanwhile) && self.calm.others.is_empty(),
            "some requests got neither an answer nor 429: {:?}",
            self.meanwhile.others
        );
        anyhow::ensure!(
            self.meanwhile.p99 <= self.calm.p99 * SLACK,
            "p99 of the answered requests rose from {:.1} to {:.1} ms",
            self.calm.p99,
            self.meanwhile.p99
        );
        anyhow::ensure!(
            self.first_second.answered * SLACK >= self.calm.answered,
            "in the first second afterwards {:.0} requests/s were answered, before {:.0}",
            self.first_second.answered,
            self.calm.answered
        );
        Ok(())
    }
}

/// Measures the server with the second release.
pub(crate) async fn measure(machine: &mut Machine) -> anyhow::Result<Overload> {
    let ports = PortBlock::take()?;
    let directory = Model::Second.directory();
    let queue = [("QUEUE_CAPACITY", QUEUE)];
    // Cores of their own: or those who make the overload would take from the server what they ask for.
    let [of_server, of_clients] = halves()?;
    keep_to(&of_server).await?;
    let server = ONNXRUNTIME
        .start(&directory, ports.router(), &queue)
        .await?;
    keep_to(&of_clients).await?;
    let bodies = |mix: Mix| -> anyhow::Result<Vec<String>> {
        let texts = mix.texts()?;
        Ok(texts.iter().map(|text| ONNXRUNTIME.body(text)).collect())
    };
    let start = |clients, pause| -> anyhow::Result<Traffic> {
        let bodies = bodies(Mix::Twenty)?;
        Ok(Traffic::start(server.address, clients, pause, bodies))
    };

    progress("overload: before");
    let traffic = start(CALM_CLIENTS, Duration::ZERO)?;
    tokio::time::sleep(CALM).await;
    let log = traffic.stop().await;
    let calm = phase(&log.answers[log.answers.len() / 5..]);
    machine.look_for_others().await?;

    progress("overload: meanwhile");
    // Who is let in waits, and does not ask again meanwhile: the others have to.
    let asking = OVERLOAD_CLIENTS - CALM_CLIENTS - BATCH * of_server.len();
    let pause = Duration::from_secs_f64(asking as f64 / (FACTOR * calm.answered));
    let traffic = start(OVERLOAD_CLIENTS, pause)?;
    tokio::time::sleep(OVERLOAD).await;
    let meanwhile = phase(&traffic.stop().await.answers);

    progress("overload: afterwards");
    let began = Instant::now();
    let traffic = start(CALM_CLIENTS, Duration::ZERO)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log: Log = traffic
        .stop()
        .await
        .between(began, began + Duration::from_secs(1));
    let first_second = phase(&log.answers);
    server.stop().await;
    Ok(Overload {
        calm,
        meanwhile,
        first_second,
    })
}

/// The cores that this program may use, in two halves; with an odd number of them the second one is larger.
fn halves() -> anyhow::Result<[Vec<usize>; 2]> {
    let status = fs::read_to_string("/proc/self/status")?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut first = cores(allowed.unwrap_or_default().trim())?;
    anyhow::ensure!(
        first.len() > 1,
        "one core is not enough for a server and its clients"
    );
    let second = first.split_off(first.len() / 2);
    Ok([first, second])
}

/// The cores in a list such as `0-2,5` (cpuset(7)).
fn cores(list: &str) -> anyhow::Result<Vec<usize>> {
    let mut cores = Vec::new();
    for range in list.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        cores.extend(from.parse::<usize>()?..=to.parse()?);
    }
    Ok(cores)
}

/// Has all threads of this program, and all that it starts from now on, keep to these cores until it ends.
async fn keep_to(cores: &[usize]) -> anyhow::Result<()> {
    let process = std::process::id().to_string();
    let list: Vec<String> = cores.iter().map(ToString::to_string).collect();
    let output = Command::new("taskset")
        .args([
            "--all-tasks",
            "--cpu-list",
            "--pid",
            &list.join(","),
            &process,
        ])
        .output()
        .await
        .context("cannot run taskset")?;
    anyhow::ensure!(
        output.status.success(),
        "taskset: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn phase(answers: &[Answer]) -> Phase {
    let mut took = Vec::new();
    let mut others = BTreeMap::new();
    for answer in answers {
        match &answer.outcome {
            Ok(_) => took.push(answer.took.as_secs_f64() * 1e3),
            Err(other) => *others.entry(other.clone()).or_default() += 1,
        }
    }
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let place = took.len() * percent / 100;
        took.get(place.min(took.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    };
    let first = answers.iter().map(|answer| answer.started).min();
    let last = answers
        .iter()
        .map(|answer| answer.started + answer.took)
        .max();
    let seconds = first
        .zip(last)
        .map_or(f64::NAN, |(first, last)| (last - first).as_secs_f64());
    Phase {
        answered: took.len() as f64 / seconds,
        asked: answers.len() as f64 / seconds,
        p50: at(50),
        p99: at(99),
        others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_holds_single_ones_and_ranges() {
        assert_eq!(cores("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert!(cores("none").is_err());
    }
}

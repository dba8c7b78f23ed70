//! What clients see of a switch, by each way to switch.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use end_to_end::{Answer, Log, Traffic};

use crate::{
    machine::Machine,
    progress,
    rig::{Color, Command, Rig},
};

const ROUNDS: usize = 10;
/// There and back, twice: a round ends where it began.
const SWITCHES_PER_ROUND: usize = 4;
pub(crate) const CONNECTIONS: usize = 64;
/// How long the new release is left alone before the next switch, at least.
const SETTLED: Duration = Duration::from_millis(600);
/// A switch that no client noticed for so long did not happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `deployer switch`: asks the color's health, sets the flag, waits for the router's word.
    Deployer,
    /// The flag file alone.
    Flag,
    /// The upstream file, then `nginx -s reload`.
    Reload,
}

impl Way {
    const ALL: [Self; 3] = [Self::Deployer, Self::Flag, Self::Reload];

    fn router(self, rig: &Rig) -> SocketAddr {
        match self {
            Self::Deployer | Self::Flag => rig.stack.router(),
            Self::Reload => rig.plain_router.address(),
        }
    }

    async fn switch(self, rig: &Rig, color: Color) -> anyhow::Result<Command> {
        match self {
            Self::Deployer => rig.switch_by_deployer(color).await,
            Self::Flag => rig.switch_by_flag(color),
            Self::Reload => rig.plain_router.switch(color).await,
        }
    }
}

/// What clients saw of one switch. Milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// From the command's begin to its return.
    pub(crate) command: f64,
    /// From the command's begin to the first answer of the new release.
    pub(crate) new_from_begin: f64,
    /// From the command's return to that answer; negative when the answer came first.
    pub(crate) new_from_return: f64,
    /// Requests begun after the return that the old release answered.
    pub(crate) late: usize,
    /// From the return to the begin of the last of these requests: when the router had switched.
    pub(crate) last_late: Option<f64>,
}

/// Everything that was seen of one way.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) requests: usize,
    pub(crate) failures: BTreeMap<String, usize>,
    pub(crate) switches: Vec<Seen>,
}

impl Account {
    pub(crate) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn add(&mut self, log: &Log, switches: &[Switch]) -> anyhow::Result<()> {
        self.requests += log.answers.len();
        for (problem, count) in log.failures() {
            *self.failures.entry(problem.to_owned()).or_default() += count;
        }
        for switch in switches {
            self.switches.push(switch.seen(log)?);
        }
        Ok(())
    }
}

/// How busy the clients keep the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// What a server that somebody cares for has to bear.
    Moderate,
    /// More than v2 can answer on two cores: its requests queue, and commands fight for a core.
    Saturating,
}

impl Load {
    const ALL: [Self; 2] = [Self::Moderate, Self::Saturating];

    /// Between an answer and the next request on a connection.
    pub(crate) fn pause(self) -> Duration {
        Duration::from_millis(match self {
            Self::Moderate => 150,
            Self::Saturating => 5,
        })
    }
}

/// The accounts of all three ways under one load.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) load: Load,
    pub(crate) deployer: Account,
    pub(crate) flag: Account,
    pub(crate) reload: Account,
}

impl Accounts {
    fn of(load: Load) -> Self {
        Self {
            load,
            deployer: Account::default(),
            flag: Account::default(),
            reload: Account::default(),
        }
    }

    fn by(&mut self, way: Way) -> &mut Account {
        match way {
            Way::Deployer => &mut self.deployer,
            Way::Flag => &mut self.flag,
            Way::Reload => &mut self.reload,
        }
    }
}

/// This project's promise: the only thing about switching that is judged.
pub(crate) fn require_no_failure_by_flag(switching: &[Accounts]) -> anyhow::Result<()> {
    for accounts in switching {
        for (way, account) in [
            ("`deployer switch`", &accounts.deployer),
            ("the flag", &accounts.flag),
        ] {
            let failed = account.failed();
            anyhow::ensure!(failed == 0, "{failed} requests failed by {way}");
        }
    }
    Ok(())
}

/// One switch that was made, and the time until the next one.
#[derive(Debug)]
struct Switch {
    to: Color,
    command: Command,
    until: Instant,
}

impl Switch {
    fn seen(&self, log: &Log) -> anyhow::Result<Seen> {
        let Command { begun, returned } = self.command;
        let first = self
            .answers(log, begun)
            .filter(|answer| self.is_new(answer))
            .map(ended)
            .min()
            .context("no client noticed a switch")?;
        let late: Vec<Instant> = self
            .answers(log, returned)
            .filter(|answer| !self.is_new(answer))
            .map(|answer| answer.started)
            .collect();
        let last_late = late.iter().max();
        Ok(Seen {
            command: milliseconds(begun, returned),
            new_from_begin: milliseconds(begun, first),
            new_from_return: milliseconds(returned, first),
            late: late.len(),
            last_late: last_late.map(|&started| milliseconds(returned, started)),
        })
    }

    /// The answers to requests begun at `from` or later. They ended before the next switch, too:
    /// a request that was on its way then may rightly be answered by either release.
    fn answers<'log>(&self, log: &'log Log, from: Instant) -> impl Iterator<Item = &'log Answer> {
        let until = self.until;
        log.answers.iter().filter(move |answer| {
            answer.outcome.is_ok() && answer.started >= from && ended(answer) < until
        })
    }

    fn is_new(&self, answer: &Answer) -> bool {
        answer.outcome.as_deref() == Ok(self.to.version())
    }
}

/// Switches there and back under both loads by all ways, in rounds, each of which begins with
/// another way.
pub(crate) async fn measure(rig: &Rig, machine: &mut Machine) -> anyhow::Result<Vec<Accounts>> {
    let mut switching = Load::ALL.map(Accounts::of);
    for round in 0..ROUNDS {
        progress(&format!("switching, round {} of {ROUNDS}", round + 1));
        for accounts in &mut switching {
            let mut ways = Way::ALL;
            ways.rotate_left(round % Way::ALL.len());
            for way in ways {
                let traffic = rig.traffic(way.router(rig), CONNECTIONS, accounts.load.pause());
                let switches = there_and_back(rig, way, &traffic).await;
                let log = traffic.stop().await;
                accounts.by(way).add(&log, &switches?)?;
            }
        }
        machine.look_for_others().await?;
    }
    Ok(switching.into())
}

async fn there_and_back(rig: &Rig, way: Way, traffic: &Traffic) -> anyhow::Result<Vec<Switch>> {
    // Every connection is open and in use before the first switch.
    traffic.reach(CONNECTIONS * 4).await?;
    let mut switches = Vec::with_capacity(SWITCHES_PER_ROUND);
    for number in 0..SWITCHES_PER_ROUND {
        let to = if number % 2 == 0 {
            Color::Green
        } else {
            Color::Blue
        };
        let command = way.switch(rig, to).await?;
        // In this order: looking through the account takes a core for a moment, which would be
        // the very moment that is measured.
        tokio::time::sleep(SETTLED).await;
        await_new(traffic, to, command).await?;
        switches.push(Switch {
            to,
            command,
            until: Instant::now(),
        });
    }
    Ok(switches)
}

/// Waits until the new release answered a request that was begun after the switch.
async fn await_new(traffic: &Traffic, to: Color, command: Command) -> anyhow::Result<()> {
    let answered = || {
        let after = traffic.so_far().between(command.returned, Instant::now());
        after.by_version().contains_key(to.version())
    };
    let noticed = async {
        while !answered() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed)
        .await
        .with_context(|| format!("{} did not answer within {PATIENCE:?}", to.version()))
}

fn ended(answer: &Answer) -> Instant {
    answer.started + answer.took
}

/// From one instant to another; negative when the other came first.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    let forward = to.saturating_duration_since(from);
    let backward = from.saturating_duration_since(to);
    (forward.as_secs_f64() - backward.as_secs_f64()) * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_begun_after_the_return_count_as_late() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let answer = |started, took, version: &str| Answer {
            started: at(started),
            took: Duration::from_millis(took),
            outcome: Ok(version.to_owned()),
        };
        let log = Log {
            answers: vec![
                answer(5, 100, "v1"),
                answer(12, 3, "v1"),
                answer(20, 2, "v2"),
                answer(99, 9, "v1"),
            ],
        };
        let switch = Switch {
            to: Color::Green,
            command: Command {
                begun,
                returned: at(10),
            },
            until: at(100),
        };
        let seen = switch.seen(&log).unwrap();
        assert_eq!(seen.late, 1);
        assert_eq!(seen.last_late.unwrap().round().to_string(), "2");
        assert_eq!(seen.new_from_return.round().to_string(), "12");
        assert_eq!(seen.new_from_begin.round().to_string(), "22");
    }

    #[test]
    fn an_answer_before_the_return_has_a_negative_time() {
        let now = Instant::now();
        let later = now + Duration::from_millis(3);
        assert_eq!(milliseconds(later, now).round().to_string(), "-3");
    }
}

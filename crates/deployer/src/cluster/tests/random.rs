//! Samples long schedules for one to five routers.

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::world::{Machine, Net, World};
use crate::color::Color;

/// One step of a schedule: what happens, and to whom.
type Step = (u8, u16);

fn step(world: &mut World, (kind, argument): Step) {
    let argument = usize::from(argument);
    let agent = argument % world.agents.len();
    let message = (!world.net.is_empty()).then(|| recent(argument, world.net.len()));
    match kind {
        0..=9 => {
            if let Some(message) = message {
                world.deliver(message);
            }
        }
        10..=13 => deliver_in_order(world),
        14..=17 => world.pass(u32::try_from(argument % 120).unwrap() + 1),
        18 => {
            if let Some(message) = message {
                world.lose(message);
            }
        }
        19 => {
            if let Some(message) = message {
                let message = world.net[message].clone();
                if matches!(message, Net::Operation { .. }) {
                    world.time_out(&message);
                } else {
                    world.net.push(message);
                }
            }
        }
        20..=22 => trouble(world, argument / 8, agent),
        23..=25 => relief(world, argument / 8, agent),
        _ => change(world, argument),
    }
}

/// Picks one of the newest messages most of the time, and any message otherwise.
fn recent(argument: usize, messages: usize) -> usize {
    let back = if argument.is_multiple_of(4) {
        argument / 4 % messages
    } else {
        argument / 4 % messages.min(4)
    };
    messages - 1 - back
}

/// Delivers what is under way now; what a frozen process must receive stays.
fn deliver_in_order(world: &mut World) {
    let mut index = 0;
    for _ in 0..world.net.len() {
        let messages = world.net.len();
        let message = world.net[index].clone();
        world.deliver(index);
        let stays = world.net.len() == messages && world.net[index] == message;
        index += usize::from(stays);
    }
}

fn trouble(world: &mut World, what: usize, agent: usize) {
    match what % 12 {
        0..=2 => world.start(agent),
        3 => world.agents[agent].frozen = world.agents[agent].alive,
        4 => world.agents[agent].stuck = true,
        5 => world.agents[agent].cut_from_store = true,
        6 => world.agents[agent].cut_from_deployers = true,
        7 => {
            world.agents[agent].cut_from_store = true;
            world.agents[agent].cut_from_deployers = true;
        }
        8 => {
            world.agents[agent].cut_from_store = true;
            world.agents[agent].loses_truth = true;
        }
        9 => world.store_up = false,
        10 => world.stop(agent),
        _ => {
            if let Some(deployer) = world.deployers.last_mut() {
                deployer.alive &= what.is_multiple_of(3);
                deployer.frozen = true;
            }
        }
    }
}

fn relief(world: &mut World, what: usize, agent: usize) {
    let state = &mut world.agents[agent];
    match what % 6 {
        0 | 1 => {
            state.frozen = false;
            if state.alive {
                state.copy();
            }
        }
        2 => state.stuck = false,
        3 => state.cut_from_store = false,
        4 => (state.cut_from_deployers, state.loses_truth) = (false, false),
        _ => world.store_up = true,
    }
}

/// Begins a change, also while another one goes on.
fn change(world: &mut World, argument: usize) {
    let active = world
        .deployers
        .iter()
        .filter(|deployer| deployer.alive && !deployer.ended())
        .count();
    if active >= 2 || (active == 1 && !argument.is_multiple_of(4)) {
        return;
    }
    let to = if world.truth.flags.active == Color::Blue {
        Color::Green
    } else {
        Color::Blue
    };
    let rate = u32::try_from(100 + argument / 5 % 11).unwrap();
    if argument % 5 == 4 {
        world.begin_roll_back(to, rate);
    } else {
        world.begin_fenced(to, rate);
    }
}

/// Ends all trouble, and returns after how many milliseconds every router serves the truth.
fn heal(world: &mut World) -> Result<u32, String> {
    world.store_up = true;
    for index in 0..world.agents.len() {
        let agent = &mut world.agents[index];
        (agent.frozen, agent.stuck) = (false, false);
        (
            agent.cut_from_store,
            agent.cut_from_deployers,
            agent.loses_truth,
        ) = (false, false, false);
        if agent.alive {
            agent.copy();
        } else {
            world.start(index);
        }
    }
    for deployer in &mut world.deployers {
        deployer.frozen = false;
    }
    let mut decided_at = 0;
    for elapsed in (0..6_000).step_by(20) {
        deliver_in_order(world);
        deliver_in_order(world);
        world.pass(20);
        world.check()?;
        let at_work = world
            .deployers
            .iter()
            .any(|deployer| deployer.alive && !deployer.ended());
        if at_work || world.truth.prepared.is_some() {
            decided_at = elapsed;
        } else if !serves_truth(world) && elapsed - decided_at > 600 {
            return Err("a router does not serve the truth within 2 T".to_owned());
        }
    }
    if decided_at > 4_000 {
        return Err("a change stays undecided".to_owned());
    }
    Ok(decided_at)
}

fn serves_truth(world: &World) -> bool {
    world
        .agents
        .iter()
        .all(|agent| agent.open && agent.nginx == (world.truth.generation, world.truth.flags))
}

fn run(rates: &[u32], started: bool, steps: &[Step]) -> Result<World, String> {
    let mut world = if started {
        World::opened(rates)
    } else {
        World::new(rates)
    };
    for (index, next) in steps.iter().enumerate() {
        step(&mut world, *next);
        world
            .check()
            .map_err(|error| format!("step {index}: {error}"))?;
    }
    heal(&mut world)?;
    Ok(world)
}

fn schedules(length: usize) -> impl Strategy<Value = (Vec<u32>, bool, Vec<Step>)> {
    let rates = proptest::collection::vec(100..=110_u32, 1..=5);
    let steps = proptest::collection::vec((0..=27_u8, any::<u16>()), length / 2..length);
    (rates, proptest::bool::weighted(0.8), steps)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routers_stay_safe_and_come_back_under_random_faults((rates, started, steps) in schedules(300)) {
        if let Err(error) = run(&rates, started, &steps) {
            return Err(TestCaseError::fail(error));
        }
    }
}

#[test]
fn random_schedules_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        let (rates, started, steps) = schedules(300).new_tree(&mut runner).unwrap().current();
        let world = run(&rates, started, &steps).unwrap();
        for deployer in &world.deployers {
            let outcome = match &deployer.machine {
                Machine::Fenced(machine) => format!("{:?}", machine.outcome()),
                Machine::Decide(machine) => format!("{:?}", machine.outcome()),
            };
            let name: String = outcome
                .chars()
                .take_while(|letter| *letter != '{')
                .collect();
            *outcomes.entry(name).or_default() += 1;
        }
    }
    for outcome in [
        "Some(Done ",
        "Some(Refused ",
        "Some(Decided ",
        "Some(Failed ",
    ] {
        assert!(
            outcomes.get(outcome).is_some_and(|count| *count > 10),
            "{outcomes:?}"
        );
    }
}

//! Visits every state that two routers can reach by a bounded number of deviations from the usual course.
//!
//! In the usual course each message arrives in order, and time passes when no message is under way. A deviation loses,
//! doubles, or holds back a message, lets the deployer give up a write that lands later, or restarts, freezes, cuts off, or
//! kills a process. A message that is held back arrives after any later pass of time, and a frozen agent thaws then.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::world::{Net, World};
use crate::color::Color;

#[derive(Clone, Copy)]
struct Bounds {
    /// How often 150 ms pass.
    passes: u8,
    deviations: u8,
}

#[derive(Clone)]
struct Node {
    world: World,
    held: Vec<Net>,
    passes: u8,
    deviations: u8,
    trace: Vec<String>,
}

fn fingerprint(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&node.world, &node.held, node.passes, node.deviations).hash(&mut hasher);
    hasher.finish()
}

fn step(node: &Node, what: String, change: impl FnOnce(&mut World)) -> Node {
    let mut next = node.clone();
    change(&mut next.world);
    next.trace.push(what);
    next
}

fn successors(node: &Node) -> Vec<Node> {
    let mut next = Vec::new();
    let first = (0..node.world.net.len()).find(|index| node.world.is_deliverable(*index));
    if let Some(first) = first {
        let message = &node.world.net[first];
        next.push(step(node, format!("deliver {message:?}"), |world| {
            world.deliver(first);
        }));
    } else if node.passes > 0 {
        let mut passed = step(node, "pass".to_owned(), |world| world.pass(150));
        passed.passes -= 1;
        next.extend(reliefs(&passed));
        next.push(passed);
    }
    if node.deviations > 0 {
        for mut node in deviations(node, first) {
            node.deviations -= 1;
            next.push(node);
        }
    }
    next
}

/// Ends one trouble after time passed.
fn reliefs(node: &Node) -> Vec<Node> {
    let mut next = Vec::new();
    for index in 0..node.held.len() {
        let mut node = node.clone();
        let message = node.held.remove(index);
        node.trace.push(format!("release {message:?}"));
        node.world.net.insert(0, message);
        next.push(node);
    }
    for (index, agent) in node.world.agents.iter().enumerate() {
        if agent.frozen {
            next.push(step(node, format!("thaw r{index}"), |world| {
                world.agents[index].frozen = false;
                world.agents[index].copy();
            }));
        }
    }
    next
}

fn deviations(node: &Node, first: Option<usize>) -> Vec<Node> {
    let mut next = Vec::new();
    if let Some(first) = first {
        let message = &node.world.net[first];
        next.push(step(node, format!("lose {message:?}"), |world| {
            world.lose(first);
        }));
        let mut doubled = step(node, format!("double {message:?}"), |_| {});
        doubled.held.push(message.clone());
        next.push(doubled);
        let mut held = step(node, format!("hold {message:?}"), |world| {
            world.net.remove(first);
            world.time_out(message);
        });
        held.held.push(message.clone());
        next.push(held);
    }
    for index in 0..node.world.agents.len() {
        let agent = &node.world.agents[index];
        next.push(step(node, format!("start r{index}"), |world| {
            world.start(index);
        }));
        if agent.alive && !agent.frozen {
            next.push(step(node, format!("freeze r{index}"), |world| {
                world.agents[index].frozen = true;
            }));
            next.push(step(node, format!("stuck r{index}"), |world| {
                world.agents[index].stuck = true;
            }));
            next.push(step(
                node,
                format!("cut r{index} from the store"),
                |world| {
                    world.agents[index].cut_from_store = true;
                },
            ));
            next.push(step(node, format!("cut r{index} off"), |world| {
                world.agents[index].cut_from_store = true;
                world.agents[index].cut_from_deployers = true;
            }));
            next.push(step(node, format!("r{index} gets no truth"), |world| {
                world.agents[index].cut_from_store = true;
                world.agents[index].loses_truth = true;
            }));
        }
    }
    for index in 0..node.world.deployers.len() {
        next.push(step(node, format!("kill deployer {index}"), |world| {
            world.deployers[index].alive = false;
        }));
    }
    next
}

/// Visits all states. Returns their number, and in how many a change is done.
fn explore(world: World, bounds: Bounds) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut stack = vec![Node {
        world,
        held: Vec::new(),
        passes: bounds.passes,
        deviations: bounds.deviations,
        trace: Vec::new(),
    }];
    let mut done = 0;
    while let Some(node) = stack.pop() {
        if !seen.insert(fingerprint(&node)) {
            continue;
        }
        if let Err(error) = node.world.check() {
            panic!("{error}\n{}", node.trace.join("\n"));
        }
        done += usize::from(node.world.done > 0);
        stack.extend(successors(&node));
    }
    (seen.len(), done)
}

fn one_change() -> World {
    let mut world = World::opened(&[100, 100]);
    world.begin_fenced(Color::Green, 100);
    world
}

/// A deployer and a roll-back at the same time.
fn change_and_roll_back() -> World {
    let mut world = one_change();
    world.begin_roll_back(Color::Blue, 100);
    world
}

/// Two deployers that want the same, and a router that starts.
fn two_changes_and_a_join() -> World {
    let mut world = World::opened(&[100, 100]);
    world.start(1);
    world.begin_fenced(Color::Green, 100);
    world.begin_fenced(Color::Green, 100);
    world
}

#[test]
fn two_routers_stay_safe_under_every_two_deviations() {
    let bounds = Bounds {
        passes: 5,
        deviations: 2,
    };
    let (states, done) = explore(one_change(), bounds);
    assert!(
        states > 10_000 && done > 1_000,
        "{states} states, {done} with a change that is done"
    );
}

#[test]
fn two_deployers_stay_safe_under_every_deviation() {
    let bounds = Bounds {
        passes: 5,
        deviations: 1,
    };
    for world in [change_and_roll_back(), two_changes_and_a_join()] {
        let (states, done) = explore(world, bounds);
        assert!(
            states > 500 && done > 50,
            "{states} states, {done} with a change that is done"
        );
    }
}

mod slow {
    use super::*;

    #[test]
    fn two_routers_stay_safe_under_every_three_deviations() {
        let bounds = Bounds {
            // These outlast a fence. With five, this takes ten minutes.
            passes: 3,
            deviations: 3,
        };
        let (states, done) = explore(one_change(), bounds);
        assert!(
            states > 100_000 && done > 10_000,
            "{states} states, {done} with a change that is done"
        );
    }

    #[test]
    fn two_deployers_stay_safe_under_every_two_deviations() {
        let bounds = Bounds {
            passes: 5,
            deviations: 2,
        };
        for world in [change_and_roll_back(), two_changes_and_a_join()] {
            let (states, done) = explore(world, bounds);
            assert!(
                states > 10_000 && done > 1_000,
                "{states} states, {done} with a change that is done"
            );
        }
    }
}

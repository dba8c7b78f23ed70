//! The fence process: a child of the agent that closes the router when the agent cannot.
//!
//! It removes the flag `open` at the deadline that the agent gave it, also while the agent is frozen, and at the end of its
//! standard input, which means that the agent died. Then it ends. No signal to the agent's process group reaches it.
//!
//! A line of standard input is `NUMBER arm NANOSECONDS` (since the machine started) or `NUMBER disarm`. It writes `NUMBER` to
//! standard output when the order is in force.

use std::{
    io::{self, BufRead as _, Write as _},
    path::PathBuf,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use clap::Args;

use crate::agent::{boot_time, open_flag::OpenFlag};

/// The flags of the hidden command `agent-fence`.
#[derive(Debug, Clone, Args)]
pub struct FenceArguments {
    /// The directory of the flags
    #[arg(long)]
    pub flags: PathBuf,
}

/// An order of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Close the router at this time since the machine started, unless another order arrives.
    Arm(Duration),
    /// Keep the router as it is until the agent dies.
    Disarm,
}

impl Order {
    /// Returns the order as a line with its number.
    pub(super) fn line(self, number: u64) -> String {
        match self {
            Self::Arm(deadline) => format!("{number} arm {}\n", deadline.as_nanos()),
            Self::Disarm => format!("{number} disarm\n"),
        }
    }

    fn parse(line: &str) -> Option<(u64, Self)> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let order = match words.next()? {
            "arm" => Self::Arm(Duration::from_nanos(words.next()?.parse().ok()?)),
            "disarm" => Self::Disarm,
            _ => return None,
        };
        words.next().is_none().then_some((number, order))
    }
}

/// Runs the fence process until its standard input ends.
pub(crate) fn run(arguments: &FenceArguments) -> io::Result<()> {
    /// A wait does not count the time for which the machine is suspended, so no wait is long.
    const LONGEST_WAIT: Duration = Duration::from_millis(10);

    let flag = OpenFlag::in_directory(&arguments.flags);
    let (sender, orders) = channel();
    // The thread ends with the process.
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            // An order that cannot be read is as bad as a dead agent.
            let order = line.ok().as_deref().and_then(Order::parse);
            let Some(order) = order else { return };
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    let mut deadline = None;
    loop {
        let received = match deadline {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => {
                let left = Duration::saturating_sub(deadline, boot_time::now());
                if left.is_zero() {
                    // Again and again: a frozen agent may wake up just before it creates the flag.
                    flag.remove()?;
                }
                let wait = if left.is_zero() {
                    LONGEST_WAIT
                } else {
                    left.min(LONGEST_WAIT)
                };
                orders.recv_timeout(wait)
            }
        };
        match received {
            Ok((number, order)) => {
                deadline = match order {
                    Order::Arm(deadline) => Some(deadline),
                    Order::Disarm => None,
                };
                // An agent that died cannot read this.
                let _ = writeln!(io::stdout(), "{number}");
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                flag.remove()?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_parsed_as_it_is_written() {
        for order in [Order::Arm(Duration::new(86_400, 1)), Order::Disarm] {
            let line = order.line(7);
            assert_eq!(Order::parse(line.trim_end()), Some((7, order)));
        }
        for line in [
            "",
            "7",
            "arm 1",
            "7 arm",
            "7 arm x",
            "7 disarm now",
            "7 open",
        ] {
            assert_eq!(Order::parse(line), None, "{line}");
        }
    }
}

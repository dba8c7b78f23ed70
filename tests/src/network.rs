//! Machines on one machine: network namespaces that are tied together by two bridges. Needs root.

use std::{net::Ipv4Addr, path::Path, process::Command};

use anyhow::Context as _;

/// One of the two networks that each machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Between routers, their clients, and the servers.
    Clients,
    /// Between routers, the store, and the deployer.
    Control,
}

impl Link {
    const BOTH: [Self; 2] = [Self::Clients, Self::Control];

    fn letter(self) -> char {
        match self {
            Self::Clients => 'd',
            Self::Control => 'c',
        }
    }

    fn interface_within(self) -> &'static str {
        match self {
            Self::Clients => "eth0",
            Self::Control => "eth1",
        }
    }
}

/// Two bridges with namespaces behind them. Dropping it removes all of them.
///
/// The host itself has the last number 1 in both networks; the machine with number 1 has 11.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: [u8; 2],
    machines: usize,
}

impl Network {
    /// Creates a network with this many machines.
    pub fn create(machines: usize) -> anyhow::Result<Self> {
        let (name, subnet) = reserve()?;
        let network = Self {
            name,
            subnet,
            machines,
        };
        for link in Link::BOTH {
            let bridge = network.bridge(link);
            if link != Link::Clients {
                ip(&["link", "add", &bridge, "type", "bridge"])?;
            }
            let address = format!("{}/24", network.host(link));
            ip(&["address", "add", &address, "dev", &bridge])?;
            ip(&["link", "set", &bridge, "up"])?;
        }
        for machine in 1..=machines {
            network.add_machine(machine)?;
        }
        Ok(network)
    }

    /// Returns the address of the host.
    #[must_use]
    pub fn host(&self, link: Link) -> Ipv4Addr {
        self.address(link, 1)
    }

    /// Returns the address of a machine.
    #[must_use]
    pub fn machine(&self, link: Link, number: usize) -> Ipv4Addr {
        let last = u8::try_from(10 + number).unwrap_or(u8::MAX);
        self.address(link, last)
    }

    /// Returns the command that runs `program` in a machine. `ip` replaces itself, so the process ID is the program's.
    #[must_use]
    pub fn command_in(&self, machine: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(machine)])
            .arg(program);
        command
    }

    /// Returns the IDs of all processes of a machine.
    pub fn processes(&self, machine: usize) -> anyhow::Result<Vec<String>> {
        let output = Command::new("ip")
            .args(["netns", "pids", &self.namespace(machine)])
            .output()?;
        let ids = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(ids.split_whitespace().map(str::to_owned).collect())
    }

    /// Unplugs a machine from one network, or plugs it in again.
    pub fn set_plugged(&self, machine: usize, link: Link, plugged: bool) -> anyhow::Result<()> {
        let state = if plugged { "up" } else { "down" };
        ip(&["link", "set", &self.interface(link, machine), state])
    }

    fn add_machine(&self, machine: usize) -> anyhow::Result<()> {
        let namespace = self.namespace(machine);
        let within = ["-n", &namespace];
        ip(&["netns", "add", &namespace])?;
        ip(&[&within[..], &["link", "set", "lo", "up"]].concat())?;
        for link in Link::BOTH {
            let (interface, peer) = (self.interface(link, machine), link.interface_within());
            let pair = ["type", "veth", "peer", "name", peer, "netns", &namespace];
            ip(&[&["link", "add", &interface], &pair[..]].concat())?;
            ip(&[
                "link",
                "set",
                &interface,
                "master",
                &self.bridge(link),
                "up",
            ])?;
            let address = format!("{}/24", self.machine(link, machine));
            ip(&[&within[..], &["address", "add", &address, "dev", peer]].concat())?;
            ip(&[&within[..], &["link", "set", peer, "up"]].concat())?;
        }
        Ok(())
    }

    fn address(&self, link: Link, last: u8) -> Ipv4Addr {
        let [second, third] = self.subnet;
        match link {
            Link::Clients => Ipv4Addr::new(10, second, third, last),
            Link::Control => Ipv4Addr::new(10, second, third + 1, last),
        }
    }

    fn bridge(&self, link: Link) -> String {
        format!("{}{}", self.name, link.letter())
    }

    fn namespace(&self, machine: usize) -> String {
        format!("{}-{machine}", self.name)
    }

    fn interface(&self, link: Link, machine: usize) -> String {
        format!("{}{machine}", self.bridge(link))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in 1..=self.machines {
            let _ = ip(&["netns", "delete", &self.namespace(machine)]);
        }
        for link in Link::BOTH {
            let _ = ip(&["link", "delete", &self.bridge(link)]);
        }
    }
}

/// Creates the first bridge of a network, so that no other test takes its name and its numbers, and returns these.
fn reserve() -> anyhow::Result<(String, [u8; 2])> {
    const TRIES: usize = 20;

    let mut last = None;
    for _ in 0..TRIES {
        let subnet = [fastrand::u8(64..=254), fastrand::u8(..) & !1];
        // Names of interfaces have at most 15 characters.
        let name = format!("bg{:02x}{:02x}", subnet[0], subnet[1]);
        let bridge = format!("{name}{}", Link::Clients.letter());
        match ip(&["link", "add", &bridge, "type", "bridge"]) {
            Ok(()) => return Ok((name, subnet)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no try was made")?)
}

/// Runs `ip` of iproute2.
fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`: `make setup` installs iproute2")?;
    anyhow::ensure!(
        output.status.success(),
        "`ip {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

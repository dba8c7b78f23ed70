//! Machines on one machine: network namespaces that are tied together by a bridge. Needs root.

use std::{net::Ipv4Addr, path::Path, process::Command};

use anyhow::Context as _;

/// A bridge with namespaces behind it. Dropping it removes all of them.
///
/// The host itself is `10.x.y.1`; the machine with number 1 is `10.x.y.11`.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: [u8; 2],
    machines: usize,
}

impl Network {
    /// Creates a network with this many machines.
    pub fn create(machines: usize) -> anyhow::Result<Self> {
        let (name, subnet) = add_bridge()?;
        let network = Self {
            name,
            subnet,
            machines,
        };
        ip(&["address", "add", &format!("{}/24", network.host()), "dev", &network.name])?;
        ip(&["link", "set", &network.name, "up"])?;
        for machine in 1..=machines {
            network.add_machine(machine)?;
        }
        Ok(network)
    }

    /// Returns the address of the host in this network.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Returns the address of a machine.
    #[must_use]
    pub fn machine(&self, number: usize) -> Ipv4Addr {
        let last = u8::try_from(10 + number).unwrap_or(u8::MAX);
        self.address(last)
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

    /// Unplugs a machine from the network, or plugs it in again. Its loopback goes on.
    pub fn set_plugged(&self, machine: usize, plugged: bool) -> anyhow::Result<()> {
        let state = if plugged { "up" } else { "down" };
        ip(&["link", "set", &self.interface(machine), state])
    }

    fn add_machine(&self, machine: usize) -> anyhow::Result<()> {
        let (namespace, interface) = (self.namespace(machine), self.interface(machine));
        ip(&["netns", "add", &namespace])?;
        ip(&[
            "link", "add", &interface, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ])?;
        ip(&["link", "set", &interface, "master", &self.name, "up"])?;
        let within = ["-n", &namespace];
        let address = format!("{}/24", self.machine(machine));
        ip(&[&within[..], &["address", "add", &address, "dev", "eth0"]].concat())?;
        for interface in ["lo", "eth0"] {
            ip(&[&within[..], &["link", "set", interface, "up"]].concat())?;
        }
        Ok(())
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [second, third] = self.subnet;
        Ipv4Addr::new(10, second, third, last)
    }

    fn namespace(&self, machine: usize) -> String {
        format!("{}-{machine}", self.name)
    }

    fn interface(&self, machine: usize) -> String {
        format!("{}v{machine}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in 1..=self.machines {
            let _ = ip(&["netns", "delete", &self.namespace(machine)]);
        }
        let _ = ip(&["link", "delete", &self.name]);
    }
}

/// Creates a bridge that no other test has. Returns its name and the numbers of its subnet.
fn add_bridge() -> anyhow::Result<(String, [u8; 2])> {
    const TRIES: usize = 20;

    let mut last = None;
    for _ in 0..TRIES {
        let subnet = [fastrand::u8(64..=254), fastrand::u8(..)];
        // Names of interfaces have at most 15 characters.
        let name = format!("bg{:02x}{:02x}", subnet[0], subnet[1]);
        match ip(&["link", "add", &name, "type", "bridge"]) {
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

//! Ports for stacks that run at the same time.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
};

use anyhow::Context as _;

/// Five free ports in a row, reserved until dropped.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    /// The kernel releases the block when the process ends.
    _lock: File,
}

impl PortBlock {
    /// Below the range that the kernel gives to outgoing connections, so that none of them takes a port
    /// meanwhile.
    const FIRST: u16 = 21_000;
    const BLOCKS: u16 = 200;
    const SIZE: u16 = 5;

    /// Reserves a block that no other test holds and on which no process listens.
    pub fn take() -> anyhow::Result<Self> {
        // One directory per user, because another user's lock files are not writable.
        let user = fs::metadata("/proc/self")?.uid();
        let directory = std::env::temp_dir().join(format!("blue-green-ports-{user}"));
        fs::create_dir_all(&directory).context("cannot make a directory for port locks")?;
        for number in 0..Self::BLOCKS {
            let lock = File::create(directory.join(number.to_string()))?;
            let first = Self::FIRST + number * Self::SIZE;
            let mut ports = first..first + Self::SIZE;
            let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if lock.try_lock().is_ok() && ports.all(free) {
                return Ok(Self { first, _lock: lock });
            }
        }
        anyhow::bail!("no {} free ports in a row", Self::SIZE)
    }

    /// All five ports.
    pub fn all(&self) -> impl Iterator<Item = u16> + use<> {
        self.first..self.first + Self::SIZE
    }

    /// The port for clients.
    #[must_use]
    pub fn router(&self) -> u16 {
        self.first
    }

    /// The port of blue.
    #[must_use]
    pub fn blue(&self) -> u16 {
        self.first + 1
    }

    /// The port of green.
    #[must_use]
    pub fn green(&self) -> u16 {
        self.first + 2
    }

    /// The router's control port.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.first + 3
    }

    /// The port for metrics of `deployer monitor`.
    #[must_use]
    pub fn metrics(&self) -> u16 {
        self.first + 4
    }
}

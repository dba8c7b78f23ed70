//! Ports of one's own: tests run at the same time, each with a router and two colors.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
};

use anyhow::Context as _;

/// Five free ports in a row, taken until dropped.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    /// The kernel frees the block when this process ends, however it ends.
    _lock: File,
}

impl PortBlock {
    /// Ports below the range that the kernel gives to clients, so that none of them is taken by
    /// somebody's outgoing connection in the meantime.
    const FIRST: u16 = 21_000;
    const BLOCKS: u16 = 200;
    const SIZE: u16 = 5;

    /// Takes a block that no other process of this project holds and in which nobody listens.
    pub fn take() -> anyhow::Result<Self> {
        // Nobody may write where another user has put his locks.
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

    /// All five of them.
    pub fn all(&self) -> impl Iterator<Item = u16> + use<> {
        self.first..self.first + Self::SIZE
    }

    /// Where clients come in.
    #[must_use]
    pub fn router(&self) -> u16 {
        self.first
    }

    /// The blue server.
    #[must_use]
    pub fn blue(&self) -> u16 {
        self.first + 1
    }

    /// The green server.
    #[must_use]
    pub fn green(&self) -> u16 {
        self.first + 2
    }

    /// The router's control port.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.first + 3
    }

    /// The metrics of `deployer monitor`.
    #[must_use]
    pub fn metrics(&self) -> u16 {
        self.first + 4
    }
}

//! Reserves ports, so that stacks can run at the same time.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
};

use anyhow::Context as _;

/// Six consecutive free ports. They stay reserved until this is dropped.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    /// The kernel releases this lock when the process ends, even if it is killed.
    _lock: File,
}

impl PortBlock {
    /// Below the range from which the kernel takes ports for outgoing connections. So no connection can take a
    /// reserved port.
    const FIRST: u16 = 21_000;
    const BLOCKS: u16 = 200;
    const SIZE: u16 = 6;

    /// Reserves a block that no other test holds, and on whose ports no process listens.
    pub fn reserve() -> anyhow::Result<Self> {
        // One directory per user, because another user's lock files are not writable.
        let user = fs::metadata("/proc/self")?.uid();
        let directory = std::env::temp_dir().join(format!("blue-green-ports-{user}"));
        fs::create_dir_all(&directory).context("cannot create the directory for port locks")?;
        for number in 0..Self::BLOCKS {
            let lock = File::create(directory.join(number.to_string()))?;
            let first = Self::FIRST + number * Self::SIZE;
            let mut ports = first..first + Self::SIZE;
            let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if lock.try_lock().is_ok() && ports.all(free) {
                return Ok(Self { first, _lock: lock });
            }
        }
        anyhow::bail!(
            "no {} consecutive ports are free from {} on: end the processes that listen there",
            Self::SIZE,
            Self::FIRST
        )
    }

    /// All six ports.
    pub fn all(&self) -> impl Iterator<Item = u16> + use<> {
        self.first..self.first + Self::SIZE
    }

    /// The router's port for clients.
    #[must_use]
    pub fn router(&self) -> u16 {
        self.first
    }

    /// The port of the blue server.
    #[must_use]
    pub fn blue(&self) -> u16 {
        self.first + 1
    }

    /// The port of the green server.
    #[must_use]
    pub fn green(&self) -> u16 {
        self.first + 2
    }

    /// The router's control port.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.first + 3
    }

    /// The port on which `deployer monitor` serves metrics.
    #[must_use]
    pub fn metrics(&self) -> u16 {
        self.first + 4
    }

    /// The port on which `deployer monitor` serves its page.
    #[must_use]
    pub fn page(&self) -> u16 {
        self.first + 5
    }
}

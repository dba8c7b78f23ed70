//! Copies of clients' requests for the previous release, while it is asked.

use crate::{
    evidence::request::Request,
    ports::{LogCursor, PortError, Ports},
};

/// Turns the copies on and off, and reads what the previous release answers.
pub(super) struct Copies<'a> {
    ports: &'a Ports,
    /// Where to read on in the log of copies; `None` while there are none.
    next: Option<LogCursor>,
}

impl<'a> Copies<'a> {
    pub(super) fn new(ports: &'a Ports) -> Self {
        Self { ports, next: None }
    }

    /// Whether this machine can read the answers to copies.
    pub(super) fn are_possible(&self) -> bool {
        self.ports.shadow_log.is_some() && self.ports.request_log.is_some()
    }

    /// Whether the router sends copies.
    pub(super) fn are_on(&self) -> bool {
        self.next.is_some()
    }

    /// Turns the copies on or off if they are not yet.
    pub(super) async fn turn(&mut self, on: bool) -> Result<(), PortError> {
        if on == self.are_on() {
            return Ok(());
        }
        if let (Some(log), true) = (&self.ports.shadow_log, on) {
            // Earlier log lines are about other copies.
            self.next = Some(log.read(None).await?.next);
            return self.ports.flags.set_shadow(true).await;
        }
        self.ports.flags.set_shadow(false).await?;
        self.next = None;
        Ok(())
    }

    /// Returns what the previous release answered since the last call.
    pub(super) async fn read(&mut self) -> Result<Vec<Request>, PortError> {
        let (Some(log), Some(next)) = (&self.ports.shadow_log, &mut self.next) else {
            return Ok(Vec::new());
        };
        let part = log.read(Some(next.clone())).await?;
        *next = part.next;
        Ok(part.requests)
    }
}

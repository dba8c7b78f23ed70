//! Progress for people, on stderr. The result goes to stdout.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    deployment::phase::Phase,
    event::{Event, Reporter},
    evidence::verdict::Verdict,
    ports::UnconfirmedRouter,
};

/// How often the wait for a candidate is a line where lines cannot be overwritten, such as in the log of a pipeline.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Prints one line per event. Repeated progress is overwritten on a terminal and omitted elsewhere, except a long wait.
pub struct Terminal {
    live: bool,
    /// Whether the next line overwrites the current one.
    overwrite: Mutex<bool>,
    /// How long the candidate was waited for at the last line about it.
    waited: Mutex<Duration>,
}

impl Terminal {
    /// Creates a reporter; detects whether stderr is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self {
            live: std::io::stderr().is_terminal(),
            overwrite: Mutex::new(false),
            waited: Mutex::default(),
        }
    }

    fn line(&self, text: &str) {
        let mut overwrite = self
            .overwrite
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let start = if std::mem::take(&mut *overwrite) {
            "\r\x1b[K"
        } else {
            ""
        };
        // A closed stderr must not end a deployment.
        let _ = writeln!(std::io::stderr(), "{start}{text}");
    }

    fn gate_finished(&self, gate: &str, verdict: &Verdict) {
        self.line(&format!(
            "  {gate:<12} {}: {}",
            verdict.conclusion, verdict.summary
        ));
        for warning in &verdict.warnings {
            self.line(&format!("  {:<12} warning: {warning}", ""));
        }
    }

    /// Shows how the wait for a candidate goes on.
    fn waiting(&self, elapsed: Duration, text: &str) {
        if self.live {
            return self.passing(text);
        }
        let mut waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
        // Another color is waited for.
        if elapsed < *waited {
            *waited = Duration::ZERO;
        }
        if elapsed.saturating_sub(*waited) >= LINE_EVERY {
            *waited = elapsed;
            self.line(text);
        }
    }

    fn passing(&self, text: &str) {
        if self.live {
            *self
                .overwrite
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = true;
            let mut stderr = std::io::stderr();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        }
    }
}

/// Prints a line on stderr outside of a command's progress.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "deployer: {text}");
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter for Terminal {
    fn report(&self, event: &Event<'_>) {
        match event {
            Event::Planned { plan } => self.line(&format!(
                "deploying {} {} to {}, which is idle; {} has the traffic",
                plan.release.model, plan.release.version, plan.idle, plan.active
            )),
            Event::Resumed { plan, phase, since } => self.line(&format!(
                "  note         deployment {} was interrupted; it was last seen {phase}, {since:.0}",
                plan.id
            )),
            Event::Note { text } => self.line(&format!("  note         {text}")),
            Event::AwaitingHealth {
                elapsed,
                without_progress,
                stall,
                reason,
                last_line,
            } => {
                let last_line = last_line.as_ref();
                let last_line = last_line.map_or_else(String::new, |line| format!("; it logged: {line}"));
                let text = format!(
                    "  waiting      {:.0} s, {:.0} of {:.0} s without progress: {reason}{last_line}",
                    elapsed.as_secs_f64(),
                    without_progress.as_secs_f64(),
                    stall.as_secs_f64()
                );
                self.waiting(*elapsed, &text);
            }
            Event::GateStarted { gate } => self.passing(&format!("  {gate:<12} ...")),
            Event::GateFinished { gate, verdict } => self.gate_finished(gate, verdict),
            Event::TrafficMoved {
                from,
                to,
                unconfirmed,
            } => match UnconfirmedRouter::in_words(unconfirmed) {
                None => self.line(&format!(
                    "  switch       all traffic moved from {from} to {to}"
                )),
                Some(words) => self.line(&format!(
                    "  switch       traffic moved from {from} to {to}; {words}"
                )),
            },
            Event::StandbyRestored {
                color,
                version,
                result,
            } => match result {
                Ok(()) => self.line(&format!("  standby      {color} holds {version} again")),
                Err(error) => self.line(&format!(
                    "  standby      {color} cannot stand in: {version} is not restored: {error}"
                )),
            },
            Event::ColorStopped { color, text, .. } => {
                self.line(&format!("  stop         {color} is stopped; {text}"));
            }
            Event::RequestsLogged { .. } => {}
            Event::BakeObserved {
                elapsed,
                of,
                tally,
                trouble,
            } => {
                let trouble = trouble.map_or_else(String::new, |trouble| format!("; {trouble}"));
                self.passing(&format!(
                    "  bake         {:.0} of {:.0} s: {} requests, {} failed{trouble}",
                    elapsed.as_secs_f64(),
                    of.as_secs_f64(),
                    tally.requests,
                    tally.failed
                ));
            }
            Event::ApprovalAwaited {
                before,
                evidence,
                expires,
            } => self.line(&format!(
                "  approval     waiting for `deployer approve` before the phase {before}, until {expires:.0}; evidence {evidence}"
            )),
            Event::ApprovalDecided {
                decision,
                by,
                reason,
                ..
            } => {
                let by = by.map_or_else(String::new, |by| format!(" by {by}"));
                let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
                self.line(&format!("  approval     {decision}{by}{reason}"));
            }
            Event::PhaseReached { phase, reason } => match (phase, reason) {
                (Phase::Starting, _) => {
                    self.line("  start        the idle color is being replaced");
                }
                (phase, Some(reason)) => self.line(&format!("{phase}: {reason}")),
                _ => {}
            },
        }
    }
}

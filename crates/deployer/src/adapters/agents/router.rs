//! The ports `Router` and `Flags` for several routers.

use std::pin::pin;

use async_trait::async_trait;
use futures_util::{StreamExt as _, future::join_all};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    adapters::{
        agents::{AgentRouters, Unfenced, named},
        nginx::{configuration, router::repeat},
    },
    cluster::{Truth, change::FlagEdit, message::RouterReport},
    color::Color,
    ports::{
        Flags, OnSilentRouter, PortError, Repeat, Router, RouterEntry, RouterLimits, RouterStatus,
        Switched,
    },
};

/// Between two questions to routers that have not read the newest truth yet.
const PAUSE: Duration = Duration::from_millis(50);

#[async_trait]
impl Router for AgentRouters {
    async fn check_flags(&self) -> Result<(), PortError> {
        let deadline = Instant::now() + self.limits.promises;
        loop {
            let statuses = self.statuses().await?;
            let problems: Vec<String> = statuses
                .into_iter()
                .filter_map(|status| Some(format!("router {}: {}", status.name, status.problem?)))
                .collect();
            if problems.is_empty() {
                return Ok(());
            }
            // A router that has just started, or missed a message, reads the store soon.
            if Instant::now() >= deadline {
                return Err(PortError::Other(problems.join("; ")));
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns as soon as one router confirms the truth, and the truth alone if none does within the fence's time: a router
    /// that is silent, or whose nginx is down or says otherwise, must not block a rollback.
    /// [`Self::check_flags`], which each deployment asks first, wants all of them.
    async fn active(&self) -> Result<Color, PortError> {
        let deadline = Instant::now() + self.limits.fence;
        loop {
            let truth = self.truth().await?;
            let mut reports = pin!(self.asked().await?);
            let mut catches_up = false;
            while let Some((_, report)) = reports.next().await {
                match report {
                    Ok(report) if is_obeyed(&report, &truth) => return Ok(truth.flags.active),
                    Ok(report) => catches_up |= report.generation < Some(truth.generation),
                    Err(_) => {}
                }
            }
            if !catches_up || Instant::now() >= deadline {
                return Ok(truth.flags.active);
            }
            sleep(PAUSE).await;
        }
    }

    async fn switch_to(&self, color: Color, silent: OnSilentRouter) -> Result<Switched, PortError> {
        let edit = FlagEdit {
            active: Some(color),
            ..FlagEdit::default()
        };
        let before = self.truth().await;
        let (_, unconfirmed) = match silent {
            OnSilentRouter::Refuse => self.fenced(edit, &format!("switch to {color}")).await?,
            OnSilentRouter::MoveOthers => self.unfenced(edit, Unfenced::OverPrepared).await?,
        };
        Ok(Switched {
            displaced: before.map_or(color.other(), |truth| truth.flags.active),
            unconfirmed,
        })
    }

    async fn in_flight(&self) -> Result<u64, PortError> {
        let mut sum = 0;
        for (entry, report) in self.reports().await? {
            let in_flight = report?.in_flight.ok_or_else(|| {
                let message = format!("{}: its nginx does not answer", named(&entry));
                PortError::Unreachable(message)
            })?;
            sum += in_flight;
        }
        Ok(sum)
    }

    async fn limits(&self) -> Result<Option<RouterLimits>, PortError> {
        let path = self.configuration.as_deref();
        path.map(configuration::limits).transpose()
    }

    async fn repeat(&self) -> Result<Repeat, PortError> {
        let entries = self.entries().await?;
        let ask = |entry: RouterEntry| async move {
            let shown = format!("GET {}/control/repeat", entry.url);
            let answer = self.agents.control(&entry, "/repeat").await;
            let asked = answer.and_then(|(status, text)| repeat(&shown, status, text.trim()));
            let asked = asked.map_err(|error| error.context(&named(&entry)));
            asked.map(|repeat| (entry, repeat))
        };
        let mut answers = join_all(entries.into_iter().map(ask)).await.into_iter();
        let Some(first) = answers.next() else {
            return Err(PortError::Invalid("no router is registered".to_owned()));
        };
        let (first, wanted) = first?;
        for answer in answers {
            let (entry, repeat) = answer?;
            if repeat != wanted {
                return Err(PortError::Invalid(format!(
                    "the routers repeat different requests: {} repeats {wanted}, {} {repeat}",
                    named(&first),
                    named(&entry)
                )));
            }
        }
        Ok(wanted)
    }

    async fn routers(&self) -> Result<Vec<RouterStatus>, PortError> {
        self.statuses().await
    }

    async fn remove(&self, name: &str) -> Result<(), PortError> {
        let entries = self.entries().await?;
        let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
            let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            return Err(PortError::Invalid(format!(
                "no router is registered as {name:?}; registered are: {}",
                names.join(", ")
            )));
        };
        if self.agents.state(entry).await.is_ok() {
            return Err(PortError::Invalid(format!(
                "{} answers: stop its agent with SIGTERM, which closes and removes it",
                named(entry)
            )));
        }
        self.store.unregister(name, entry.incarnation).await
    }

    async fn abort_prepared(&self) -> Result<Option<String>, PortError> {
        let Some(prepared) = self.truth().await?.prepared else {
            return Ok(None);
        };
        // With the flags as they are, this decides over the prepared change: its abort.
        let abort = FlagEdit::default();
        self.unfenced(abort, Unfenced::Told).await?;
        Ok(Some(prepared.by))
    }
}

/// Whether the router's nginx obeys the truth, or a newer one with the same active color.
fn is_obeyed(report: &RouterReport, truth: &Truth) -> bool {
    report.generation >= Some(truth.generation) && report.active == Some(truth.flags.active)
}

#[async_trait]
impl Flags for AgentRouters {
    async fn active(&self) -> Result<Color, PortError> {
        Ok(self.truth().await?.flags.active)
    }

    async fn is_fit(&self, color: Color) -> Result<bool, PortError> {
        Ok(self.truth().await?.flags.is_fit(color))
    }

    /// Removing the flag of the idle color is fenced, because a router that missed it would let an unproven release stand
    /// in. The flag of the active color has no effect until traffic moves, and that move waits for the routers.
    async fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError> {
        let flags = self.truth().await?.flags;
        if flags.is_fit(color) == fit {
            return Ok(());
        }
        let mut edit = FlagEdit::default();
        match color {
            Color::Blue => edit.fit_blue = Some(fit),
            Color::Green => edit.fit_green = Some(fit),
        }
        if fit {
            self.unfenced(edit, Unfenced::Confirmed).await?;
            return Ok(());
        }
        if flags.active == color {
            let (truth, _) = self.unfenced(edit, Unfenced::Told).await?;
            if truth.flags.active == color {
                return Ok(());
            }
            // Traffic moved between the read and the write.
        }
        let what = format!("{color} stands in no more");
        self.fenced(edit, &what).await?;
        Ok(())
    }

    async fn is_shadow(&self) -> Result<bool, PortError> {
        Ok(self.truth().await?.flags.shadow)
    }

    async fn set_shadow(&self, on: bool) -> Result<(), PortError> {
        if self.truth().await?.flags.shadow == on {
            return Ok(());
        }
        let edit = FlagEdit {
            shadow: Some(on),
            ..FlagEdit::default()
        };
        // A router that goes on copying for a moment harms nobody, and a rollback ends the copies first.
        let how = if on {
            Unfenced::Confirmed
        } else {
            Unfenced::Told
        };
        self.unfenced(edit, how).await?;
        Ok(())
    }
}

//! The logs of all routers as one.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    adapters::{
        agents::{AgentRouters, mirror::Mirror, named},
        nginx::request_log::AccessLog,
        user_agent::UserAgent,
    },
    evidence::request::Request,
    ports::{LogCursor, LogPart, PortError, RequestLog, RouterEntry},
};

/// Which logs of a router are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapters) enum LogKind {
    /// What clients were answered.
    Access,
    /// What the idle color answered to copies.
    Shadow,
}

/// Copies the log of each router, and merges them by time.
pub(in crate::adapters) struct MergedLog {
    kind: LogKind,
    routers: AgentRouters,
    state: PathBuf,
    user_agent: Arc<UserAgent>,
}

/// How far a reader has read.
#[derive(Debug, Clone, Default)]
struct Progress {
    routers: BTreeMap<String, (RouterEntry, Position)>,
    /// When it read, in seconds since 1970.
    at: f64,
}

/// How far a reader has read in the log of one router.
#[derive(Debug, Clone)]
enum Position {
    Read(LogCursor),
    /// Nothing was read yet. Requests that ended before this time are of no interest.
    Unread(f64),
}

/// A router whose log is read.
struct ToRead {
    entry: RouterEntry,
    position: Position,
    /// Whether it is no longer registered. Its log is then read for the last time.
    is_gone: bool,
}

/// What was read of all routers.
#[derive(Default)]
struct Merged {
    progress: Progress,
    requests: Vec<Request>,
    unparsable: u64,
    problems: Vec<PortError>,
    missing: Vec<PortError>,
}

impl MergedLog {
    pub(in crate::adapters) fn new(
        kind: LogKind,
        routers: AgentRouters,
        state: PathBuf,
        user_agent: Arc<UserAgent>,
    ) -> Self {
        Self {
            kind,
            routers,
            state,
            user_agent,
        }
    }

    /// Returns the routers to read, and why they are not known for certain, if so.
    async fn to_read(
        &self,
        before: Option<&Progress>,
    ) -> Result<(Vec<ToRead>, Option<PortError>), PortError> {
        let listed = self.routers.entries().await;
        let Some(before) = before else {
            let new = |entry| ToRead {
                entry,
                position: Position::Unread(f64::NEG_INFINITY),
                is_gone: false,
            };
            return Ok((listed?.into_iter().map(new).collect(), None));
        };
        let (listed, problem) = match listed {
            Ok(listed) => (Some(listed), None),
            Err(error) => (None, Some(error)),
        };
        let mut to_read = Vec::new();
        for (name, (entry, position)) in &before.routers {
            let now = listed
                .as_ref()
                .map(|listed| listed.iter().find(|it| it.name == *name));
            to_read.push(ToRead {
                entry: now.flatten().unwrap_or(entry).clone(),
                position: position.clone(),
                is_gone: now == Some(None),
            });
        }
        let joined = listed.into_iter().flatten();
        let joined = joined.filter(|entry| !before.routers.contains_key(&entry.name));
        to_read.extend(joined.map(|entry| ToRead {
            entry,
            position: Position::Unread(before.at),
            is_gone: false,
        }));
        Ok((to_read, problem))
    }

    /// Reads on in the log of one router.
    async fn read_one(&self, router: &ToRead, deadline: Instant) -> Result<LogPart, PortError> {
        let ToRead {
            entry,
            position,
            is_gone,
        } = router;
        let mirror = Mirror::of(&self.state, &entry.name)?;
        let _lock = mirror.lock(deadline).await?;
        let agents = &self.routers.agents;
        let (log, error_log) = match self.kind {
            LogKind::Access => ("access", Some("error")),
            // nginx reads no more than the head of an answer to a copy, so none can break off.
            LogKind::Shadow => ("shadow", None),
        };
        // The error log is later: nginx writes an answer's line there before the one in the access log.
        for log in [Some(log), error_log].into_iter().flatten() {
            let pulled = mirror.pull(agents, entry, log, deadline).await;
            if !is_gone {
                pulled?;
            }
        }
        let error_log = error_log.map(|log| mirror.file(log));
        let log = AccessLog::new(
            &mirror.file(log),
            error_log.as_deref(),
            self.user_agent.clone(),
        );
        match position {
            Position::Read(cursor) => log.read(Some(cursor.clone())).await,
            Position::Unread(since) => {
                let mut part = log.read(None).await?;
                part.requests.retain(|request| request.at >= *since);
                Ok(part)
            }
        }
    }
}

impl Merged {
    fn add(&mut self, router: ToRead, read: Result<LogPart, PortError>) {
        let ToRead {
            entry,
            position,
            is_gone,
        } = router;
        let position = match read {
            Ok(part) => {
                let requests = part.requests.into_iter().map(|request| Request {
                    id: format!("{} at {}", request.id, entry.name),
                    ..request
                });
                self.requests.extend(requests);
                self.unparsable += part.unparsable;
                let problem = part.problem.map(|problem| problem.context(&named(&entry)));
                self.problems.extend(problem);
                Position::Read(part.next)
            }
            Err(_) if is_gone => position,
            Err(error) => {
                let what = format!("the log of router {}", entry.name);
                self.missing.push(error.context(&what));
                match position {
                    Position::Unread(since) if since.is_infinite() => {
                        Position::Unread(self.progress.at)
                    }
                    position => position,
                }
            }
        };
        if is_gone {
            self.problems.push(PortError::Other(format!(
                "router {} is gone, and its last requests may be missing",
                entry.name
            )));
        } else {
            let name = entry.name.clone();
            self.progress.routers.insert(name, (entry, position));
        }
    }

    fn into_part(mut self) -> LogPart {
        self.requests
            .sort_by(|one, other| one.at.total_cmp(&other.at));
        let positions = self.progress.routers.values();
        let position = positions.map(|(_, position)| match position {
            Position::Read(cursor) => cursor.position(),
            Position::Unread(_) => 0,
        });
        LogPart {
            requests: self.requests,
            unparsable: self.unparsable,
            next: LogCursor::at(position.sum()).with_pending(self.progress),
            problem: joined(self.problems),
            missing: joined(self.missing),
        }
    }
}

/// One error that says them all.
fn joined(errors: Vec<PortError>) -> Option<PortError> {
    errors
        .into_iter()
        .reduce(|one, other| one.map_message(|text| format!("{text}; {other}")))
}

#[async_trait]
impl RequestLog for MergedLog {
    /// Fails if no router's log can be read. What a router lacks of a part comes with a later one.
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
        /// A first read copies up to 32 MiB of each router's log.
        const FIRST: Duration = Duration::from_secs(10);
        /// An observation of the bake has 1 s.
        const NEXT: Duration = Duration::from_millis(700);

        let before = after.as_ref().and_then(LogCursor::pending::<Progress>);
        let patience = if before.is_some() { NEXT } else { FIRST };
        let deadline = Instant::now() + patience;
        let mut merged = Merged::default();
        merged.progress.at = Timestamp::now().as_duration().as_secs_f64();
        let (to_read, problem) = self.to_read(before).await?;
        merged.problems.extend(problem);
        let reads = to_read.into_iter().map(|router| async move {
            let read = self.read_one(&router, deadline).await;
            (router, read)
        });
        let reads = join_all(reads).await;
        let all_failed = reads.iter().all(|(_, read)| read.is_err());
        for (router, read) in reads {
            merged.add(router, read);
        }
        if all_failed && let Some(error) = joined(std::mem::take(&mut merged.missing)) {
            return Err(error);
        }
        Ok(merged.into_part())
    }
}

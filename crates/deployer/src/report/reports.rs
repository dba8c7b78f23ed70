//! The report files of a state directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use thiserror::Error;

use crate::{
    deployment::phase::Phase,
    report::{
        event_line::{EventLine, LoggedEvent},
        live::LiveFiles,
        page,
        record::{Record, SCHEMA},
    },
    state::atomic_file::replace,
};

/// Why a report is not available.
#[derive(Debug, Error)]
pub enum ReportError {
    /// There is no report.
    #[error("{directory} holds no report; `deployer deploy` leaves one")]
    None {
        /// The directory of the reports.
        directory: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {doing} the report {path}: {source}")]
    Storage {
        /// What failed, in the infinitive.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// The file holds no valid report.
    #[error("{path} is not a report that this deployer understands: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The reports of a state directory.
#[derive(Debug, Clone)]
pub struct Reports {
    directory: PathBuf,
    live: LiveFiles,
}

impl Reports {
    /// The reports of this state directory.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self {
            directory: state.join("reports"),
            live: LiveFiles::of(state),
        }
    }

    /// The live files, which belong to the reports.
    pub(crate) fn live(&self) -> &LiveFiles {
        &self.live
    }

    /// The path of a deployment's page.
    #[must_use]
    pub fn page(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.html"))
    }

    /// The path of a deployment's data.
    #[must_use]
    pub fn data(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// Reads the data of a deployment; without an identifier, of the last one.
    pub fn read(&self, id: Option<&str>) -> Result<Record, ReportError> {
        let path = match id {
            // An identifier is a file name without a directory.
            Some(id) if id.contains(['/', '\\']) => {
                return Err(ReportError::Damaged {
                    path: id.into(),
                    problem:
                        "expected the identifier of a deployment, such as 20260102T030405.678Z-v2"
                            .to_owned(),
                });
            }
            Some(id) => self.data(id),
            None => self.last()?,
        };
        let text = fs::read_to_string(&path).map_err(storage("read", &path))?;
        let damaged = |problem: String| ReportError::Damaged {
            path: path.clone(),
            problem,
        };
        let record: Record =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if record.schema != SCHEMA {
            return Err(damaged(format!(
                "its schema is {}, not {SCHEMA}",
                record.schema
            )));
        }
        Ok(record)
    }

    /// Identifiers begin with the time, so the last one in order is the newest.
    fn last(&self) -> Result<PathBuf, ReportError> {
        let none = || ReportError::None {
            directory: self.directory.clone(),
        };
        let files = match fs::read_dir(&self.directory) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
            Err(error) => return Err(storage("read", &self.directory)(error)),
        };
        let paths = files.filter_map(|file| Some(file.ok()?.path()));
        let data = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
        data.max().ok_or_else(none)
    }

    /// Removes all but the `keep` newest reports and live files.
    pub fn prune(&self, keep: usize) -> Result<(), ReportError> {
        let live = self.live.prune(keep);
        live.map_err(storage("remove live files of", self.live.directory()))?;
        let files = fs::read_dir(&self.directory).map_err(storage("read", &self.directory))?;
        let mut data: Vec<PathBuf> = files
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
            .collect();
        // The names begin with the time.
        data.sort();
        for old in &data[..data.len().saturating_sub(keep)] {
            for path in [old.with_extension("html"), old.clone()] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(storage("remove", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Writes the data and the page.
    pub fn write(&self, record: &Record) -> Result<(), ReportError> {
        let data = self.data(&record.plan.id);
        fs::create_dir_all(&self.directory).map_err(storage("create", &self.directory))?;
        let text = serde_json::to_string_pretty(record)
            .map_err(|error| storage("write", &data)(error.into()))?;
        replace(&data, &text).map_err(storage("write", &data))?;
        self.write_page(record)
    }

    /// Writes the page.
    pub fn write_page(&self, record: &Record) -> Result<(), ReportError> {
        let html = self.page(&record.plan.id);
        replace(&html, &page::html(record)).map_err(storage("write", &html))
    }

    /// Records the end of a deployment that a later command ended, also in the live file. Does nothing if there is no report.
    pub fn end(&self, id: &str, phase: Phase, reason: &str) -> Result<(), ReportError> {
        let Ok(mut record) = self.read(Some(id)) else {
            return Ok(());
        };
        let end = EventLine {
            event: LoggedEvent::PhaseReached {
                phase,
                reason: Some(reason.to_owned()),
            },
            at: Timestamp::now(),
        };
        record.apply(&end);
        self.write(&record)?;
        let path = self.live.path(id);
        // An earlier version of the deployer wrote none.
        if !path.exists() {
            return Ok(());
        }
        let live = self.live.writer(id);
        live.and_then(|mut live| live.append(&end))
            .map_err(storage("add an end to", &path))
    }
}

fn storage(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::Storage {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{color::Color, deployment::plan::Plan, release::Release};

    fn plan() -> Plan {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Plan::new(Timestamp::now(), Color::Blue, release)
    }

    #[test]
    fn report_of_another_schema_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        reports
            .write(&Record {
                schema: SCHEMA + 1,
                ..Record::new(plan.clone())
            })
            .unwrap();
        let error = reports.read(Some(&plan.id)).unwrap_err().to_string();
        assert!(error.ends_with("its schema is 2, not 1"), "{error}");
    }

    #[test]
    fn report_without_endings_is_read_and_shown() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        let mut data = serde_json::to_value(Record::new(plan.clone())).unwrap();
        data["traffic"] = serde_json::json!([
            {"second": 1, "color": "blue", "requests": 9, "failed": 1, "p50": 0.1, "p99": 0.2},
        ]);
        fs::create_dir(directory.path().join("reports")).unwrap();
        fs::write(reports.data(&plan.id), data.to_string()).unwrap();
        let read = reports.read(None).unwrap();
        reports.write_page(&read).unwrap();
        let page = fs::read_to_string(reports.page(&plan.id)).unwrap();
        assert!(page.contains("What clients saw"), "{page}");
        assert!(!page.contains("How requests ended"), "{page}");
    }

    #[test]
    fn prune_keeps_newest_reports_and_live_files() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        for second in 0..5 {
            let mut plan = plan();
            plan.id = format!("20260101T00000{second}Z-v2");
            reports.live().writer(&plan.id).unwrap();
            reports.write(&Record::new(plan)).unwrap();
        }
        reports.prune(2).unwrap();
        let left = |name: &str| {
            let mut left: Vec<String> = fs::read_dir(directory.path().join(name))
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            left
        };
        let ids = [3, 4].map(|second| format!("20260101T00000{second}Z-v2"));
        let reports_left = ids
            .each_ref()
            .map(|id| [format!("{id}.html"), format!("{id}.json")]);
        assert_eq!(left("reports"), reports_left.concat());
        assert_eq!(left("live"), ids.map(|id| format!("{id}.jsonl")));
    }

    #[test]
    fn missing_and_damaged_reports_are_named_in_error() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let error_of = |id| reports.read(id).unwrap_err().to_string();
        assert!(
            error_of(None).contains("holds no report"),
            "{}",
            error_of(None)
        );
        assert!(error_of(Some("20260101T000000Z-v2")).starts_with("cannot read the report"));
        assert!(error_of(Some("../deployment")).contains("expected the identifier"));
        fs::create_dir(directory.path().join("reports")).unwrap();
        fs::write(reports.data("x"), "{\"schema\": 1}").unwrap();
        assert!(
            error_of(Some("x")).contains("is not a report"),
            "{}",
            error_of(Some("x"))
        );
    }
}

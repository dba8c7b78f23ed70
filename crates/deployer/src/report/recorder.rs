//! Takes down what happens, and keeps it in files.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use thiserror::Error;

use super::{
    page,
    record::{Judged, Reached, Record, SCHEMA, Second},
};
use crate::{
    color::Color,
    event::{Event, Reporter},
    journal::replace,
    phase::Phase,
    statistics::quantile,
    traffic::Request,
};

/// What was logged so long before the deployment began is left out.
const BEFORE: f64 = 60.0;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// None was ever left.
    #[error("{directory} holds no report; `deployer deploy` leaves one")]
    None {
        /// Where reports lie.
        directory: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {doing} the report {path}: {source}")]
    Storage {
        /// What was being done, in the infinitive.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} is not a report that this deployer understands: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where the reports of a state directory lie.
#[derive(Debug, Clone)]
pub struct Reports {
    directory: PathBuf,
}

impl Reports {
    /// Those of this state directory.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self {
            directory: state.join("reports"),
        }
    }

    /// The page of a deployment.
    #[must_use]
    pub fn page(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.html"))
    }

    /// The data of a deployment.
    #[must_use]
    pub fn data(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// What is known of a deployment; of the last one without an identifier.
    pub fn read(&self, id: Option<&str>) -> Result<Record, ReportError> {
        let path = match id {
            // An identifier is a file's name, and nothing that leads elsewhere.
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

    /// Identifiers begin with the time, so that the last one in order is the newest.
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

    /// Removes all but the `keep` newest.
    pub fn prune(&self, keep: usize) -> Result<(), ReportError> {
        let files = fs::read_dir(&self.directory).map_err(storage("read", &self.directory))?;
        let mut data: Vec<PathBuf> = files
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
            .collect();
        // They are named by the time.
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

    /// Keeps what is known: the data, and the page that is made of it.
    pub fn write(&self, record: &Record) -> Result<(), ReportError> {
        let data = self.data(&record.plan.id);
        fs::create_dir_all(&self.directory).map_err(storage("create", &self.directory))?;
        let text = serde_json::to_string_pretty(record)
            .map_err(|error| storage("write", &data)(error.into()))?;
        replace(&data, &text).map_err(storage("write", &data))?;
        self.write_page(record)
    }

    /// Makes the page of what is known.
    pub fn write_page(&self, record: &Record) -> Result<(), ReportError> {
        let html = self.page(&record.plan.id);
        replace(&html, &page::html(record)).map_err(storage("write", &html))
    }

    /// Takes down how a deployment ended that was not brought to its end by whom began it. Where no report
    /// is left, there is nothing to go on with.
    pub fn end(&self, id: &str, phase: Phase, reason: &str) -> Result<(), ReportError> {
        let Ok(mut record) = self.read(Some(id)) else {
            return Ok(());
        };
        let at = Timestamp::now();
        record.phases.push(Reached { phase, at });
        record.reason = Some(reason.to_owned());
        self.write(&record)
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

/// Takes down a deployment, and writes the report whenever a phase is reached: what was known is
/// there also when the deployer is killed.
pub struct Recorder {
    reports: Reports,
    /// None until a deployment begins.
    taken: Mutex<Option<Taken>>,
}

/// What was taken down.
struct Taken {
    record: Record,
    asked: Option<Timestamp>,
    seconds: BTreeMap<(i64, Color), Bucket>,
    problem: Option<ReportError>,
}

#[derive(Default)]
struct Bucket {
    requests: u64,
    failed: u64,
    waits: Vec<f64>,
}

impl Recorder {
    /// Nothing has begun.
    #[must_use]
    pub fn new(reports: Reports) -> Self {
        Self {
            reports,
            taken: Mutex::new(None),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the report could not be written when it last should have been.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let taken = self.lock();
        Some(taken.as_ref()?.problem.as_ref()?.to_string())
    }
}

impl Taken {
    fn with(record: Record) -> Self {
        Self {
            record,
            asked: None,
            seconds: BTreeMap::new(),
            problem: None,
        }
    }

    fn log(&mut self, requests: &[Request]) {
        let began = self
            .record
            .phases
            .first()
            .map_or_else(Timestamp::now, |first| first.at);
        let from = began.as_second() as f64 - BEFORE;
        for request in requests.iter().filter(|request| request.at >= from) {
            let Some(good) = request.speaks_of(request.wanted) else {
                continue;
            };
            #[expect(clippy::cast_possible_truncation, reason = "a second of our time fits")]
            let second = request.at.floor() as i64;
            let bucket = self.seconds.entry((second, request.wanted)).or_default();
            bucket.requests += 1;
            bucket.failed += u64::from(!good);
            bucket.waits.push(request.waited.as_secs_f64());
        }
    }

    /// Sums up the seconds that were logged.
    fn gather(&mut self) {
        if self.seconds.is_empty() {
            return;
        }
        self.record.traffic = self
            .seconds
            .iter_mut()
            .map(|((second, color), bucket)| {
                bucket.waits.sort_by(f64::total_cmp);
                Second {
                    second: *second,
                    color: *color,
                    requests: bucket.requests,
                    failed: bucket.failed,
                    p50: quantile(&bucket.waits, 0.5),
                    p99: quantile(&bucket.waits, 0.99),
                }
            })
            .collect();
    }
}

impl Reporter for Recorder {
    fn report(&self, event: &Event<'_>) {
        let mut taken = self.lock();
        let begun = match event {
            Event::Planned { plan } => Some(Record::new((*plan).clone())),
            // A report that is lost or damaged is begun anew: what ends now is worth a page.
            Event::Resumed { plan, .. } => {
                let kept = self.reports.read(Some(&plan.id));
                Some(kept.unwrap_or_else(|_| Record::new((*plan).clone())))
            }
            _ => None,
        };
        if let Some(record) = begun {
            *taken = Some(Taken::with(record));
        }
        let Some(taken) = &mut *taken else { return };
        match event {
            Event::Note { text } => taken.record.notes.push(text.clone()),
            Event::Asking { .. } => taken.asked = Some(Timestamp::now()),
            Event::Judged { gate, verdict } => {
                let judged = Judged::new(gate, taken.asked.take(), verdict);
                taken.record.gates.push(judged);
            }
            Event::Moved { to, .. } if *to == taken.record.plan.idle => {
                taken.record.switched = Some(Timestamp::now());
            }
            Event::Logged { requests } => taken.log(requests),
            Event::Reached { phase, reason } => {
                let at = Timestamp::now();
                taken.record.phases.push(Reached { phase: *phase, at });
                taken.record.reason = reason.map(str::to_owned);
                taken.gather();
                taken.problem = self.reports.write(&taken.record).err();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        plan::Plan,
        release::Release,
        verdict::{Finding, Verdict},
    };

    fn plan() -> Plan {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Plan::new(Timestamp::now(), Color::Blue, release)
    }

    fn request(at: f64, wanted: Color, status: u16) -> Request {
        Request {
            at,
            by_deployer: false,
            wanted,
            answered: Some(wanted),
            status,
            attempts: vec![Some(status)],
            took: Some(Duration::from_millis(3)),
            waited: Duration::from_millis(4),
            label: None,
        }
    }

    fn record(recorder: &Recorder, phase: Phase, reason: Option<&str>) {
        recorder.report(&Event::Reached { phase, reason });
    }

    #[test]
    fn a_deployment_leaves_data_and_a_page_that_say_how_it_went() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let recorder = Recorder::new(reports.clone());
        let plan = plan();
        recorder.report(&Event::Planned { plan: &plan });
        record(&recorder, Phase::Planned, None);
        recorder.report(&Event::Asking { gate: "golden" });
        let mut verdict =
            Verdict::new(Finding::Fail, "right on 1 of 3 inputs").with("accuracy", 0.33);
        verdict = verdict.with("ratio", f64::INFINITY);
        recorder.report(&Event::Judged {
            gate: "golden",
            verdict: &verdict,
        });
        let now = Timestamp::now().as_second() as f64;
        let logged = [
            request(now, Color::Blue, 200),
            request(now + 0.5, Color::Blue, 500),
            request(now - 3_600.0, Color::Blue, 200),
        ];
        recorder.report(&Event::Logged { requests: &logged });
        record(
            &recorder,
            Phase::Refused,
            Some("golden: right on 1 of 3 inputs"),
        );

        assert_eq!(recorder.problem(), None);
        let read = reports.read(None).unwrap();
        assert_eq!(
            read.headline(),
            "sentiment v2 refused: golden: right on 1 of 3 inputs"
        );
        assert_eq!(read.gates[0].finding, Finding::Fail);
        assert!(read.gates[0].asked.is_some());
        assert_eq!(read.gates[0].numbers.len(), 1, "JSON knows no infinity");
        assert_eq!(read.switched, None);
        let [second] = read.traffic[..] else {
            panic!("{:?}", read.traffic)
        };
        assert_eq!((second.requests, second.failed), (2, 1));
        let page = fs::read_to_string(reports.page(&plan.id)).unwrap();
        assert!(page.contains("right on 1 of 3 inputs"), "{page}");
        for elsewhere in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere} in {page}");
        }
    }

    #[test]
    fn a_report_is_gone_on_with_where_a_killed_deployer_left_it() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        let killed = Recorder::new(reports.clone());
        killed.report(&Event::Planned { plan: &plan });
        record(&killed, Phase::Planned, None);
        let next = Recorder::new(reports.clone());
        next.report(&Event::Resumed {
            plan: &plan,
            phase: Phase::Planned,
            since: Timestamp::now(),
        });
        record(&next, Phase::Refused, Some("the deployer was interrupted"));
        let read = reports.read(Some(&plan.id)).unwrap();
        let phases: Vec<Phase> = read.phases.iter().map(|reached| reached.phase).collect();
        assert_eq!(phases, [Phase::Planned, Phase::Refused]);
    }

    #[test]
    fn a_deployment_that_somebody_else_ended_is_not_under_way() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        let killed = Recorder::new(reports.clone());
        killed.report(&Event::Planned { plan: &plan });
        record(&killed, Phase::Planned, None);
        reports.end(&plan.id, Phase::Refused, "by hand").unwrap();
        let read = reports.read(None).unwrap();
        assert_eq!(read.headline(), "sentiment v2 refused: by hand");
        reports.end("unknown", Phase::Refused, "by hand").unwrap();
    }

    #[test]
    fn a_report_of_another_schema_is_not_read_as_one_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        reports
            .write(&Record {
                schema: SCHEMA + 1,
                ..Record::new(plan.clone())
            })
            .unwrap();
        let problem = reports.read(Some(&plan.id)).unwrap_err().to_string();
        assert!(problem.ends_with("its schema is 2, not 1"), "{problem}");
    }

    #[test]
    fn the_newest_reports_stay() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        for second in 0..5 {
            let mut plan = plan();
            plan.id = format!("20260101T00000{second}Z-v2");
            reports.write(&Record::new(plan)).unwrap();
        }
        reports.prune(2).unwrap();
        let mut left: Vec<String> = fs::read_dir(directory.path().join("reports"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let expected = [3, 4].map(|second| format!("20260101T00000{second}Z-v2"));
        let expected = expected.map(|id| [format!("{id}.html"), format!("{id}.json")]);
        assert_eq!(left, expected.concat());
    }

    #[test]
    fn a_report_that_is_not_there_and_a_file_that_is_none_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let problem = |id| reports.read(id).unwrap_err().to_string();
        assert!(
            problem(None).contains("holds no report"),
            "{}",
            problem(None)
        );
        assert!(problem(Some("20260101T000000Z-v2")).starts_with("cannot read the report"));
        assert!(problem(Some("../deployment")).contains("expected the identifier"));
        fs::create_dir(directory.path().join("reports")).unwrap();
        fs::write(reports.data("x"), "{\"schema\": 1}").unwrap();
        assert!(
            problem(Some("x")).contains("is not a report"),
            "{}",
            problem(Some("x"))
        );
    }

    #[test]
    fn a_report_that_cannot_be_written_ends_nothing_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("reports"), "in the way").unwrap();
        let recorder = Recorder::new(Reports::of(directory.path()));
        recorder.report(&Event::Planned { plan: &plan() });
        record(&recorder, Phase::Planned, None);
        let problem = recorder.problem().unwrap();
        assert!(problem.starts_with("cannot create the report"), "{problem}");
    }
}

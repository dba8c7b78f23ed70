//! Records a deployment in report files.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::{
    event::{Event, Reporter},
    report::{
        event_line::EventLine,
        live::LiveWriter,
        record::Record,
        reports::{ReportError, Reports},
        traffic::TrafficCounts,
    },
};

/// Requests that were logged earlier than this many seconds before the deployment are left out.
const BEFORE: f64 = 60.0;

/// Records a deployment: adds each event to the live file, and writes the report at each phase and question. Both survive a killed
/// deployer.
pub struct Recorder {
    reports: Reports,
    /// `None` until a deployment begins.
    recording: Mutex<Option<Recording>>,
}

/// The record so far.
struct Recording {
    record: Record,
    traffic: TrafficCounts,
    problem: Option<ReportError>,
    live: io::Result<LiveWriter>,
}

impl Recorder {
    /// Creates a recorder. Nothing is recorded before a deployment begins.
    #[must_use]
    pub fn new(reports: Reports) -> Self {
        Self {
            reports,
            recording: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Recording>> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last write of the report failed, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let recording = self.lock();
        Some(recording.as_ref()?.problem.as_ref()?.to_string())
    }

    /// Why the live file does not have all events, if so.
    #[must_use]
    pub fn live_problem(&self) -> Option<String> {
        let recording = self.lock();
        let Recording { record, live, .. } = recording.as_ref()?;
        let error = live.as_ref().err()?;
        let path = self.reports.live().path(&record.plan.id);
        Some(format!(
            "cannot write {}, so the page does not show all events: {error}",
            path.display()
        ))
    }

    /// The record of a deployment that an earlier deployer began.
    fn kept(&self, id: &str) -> Option<Record> {
        let report = self.reports.read(Some(id)).ok();
        // The report is as old as its last phase. The live file has every event, but not the traffic.
        match (self.reports.live().replay(id), report) {
            (Some(live), Some(report)) if live.phases.len() >= report.phases.len() => {
                Some(Record {
                    traffic: report.traffic,
                    ..live
                })
            }
            (live, report) => report.or(live),
        }
    }

    fn begin(&self, record: Record) -> Recording {
        Recording {
            live: self.reports.live().writer(&record.plan.id),
            record,
            traffic: TrafficCounts::every(1),
            problem: None,
        }
    }
}

impl Recording {
    fn record(&mut self, line: &EventLine) {
        self.record.apply(line);
        if let Ok(live) = &mut self.live
            && let Err(error) = live.append(line)
        {
            // A line that is missing in the middle would mislead more than an end that is missing.
            self.live = Err(error);
        }
    }

    fn count(&mut self, event: &Event<'_>) {
        if let Event::RequestsLogged { requests } = event {
            let began = self.record.phases.first();
            let began = began.map_or_else(Timestamp::now, |first| first.at);
            let from = began.as_second() as f64 - BEFORE;
            self.traffic.count(requests, from);
        }
    }

    fn write(&mut self, reports: &Reports) {
        let traffic = self.traffic.seconds();
        if !traffic.is_empty() {
            self.record.traffic = traffic;
        }
        self.problem = reports.write(&self.record).err();
    }
}

impl Reporter for Recorder {
    fn report(&self, event: &Event<'_>) {
        let mut recording = self.lock();
        let begun = match event {
            Event::Planned { plan } => Some(Record::new((*plan).clone())),
            // A lost or damaged report is replaced: the end deserves a page.
            Event::Resumed { plan, .. } => {
                let kept = self.kept(&plan.id);
                Some(kept.unwrap_or_else(|| Record::new((*plan).clone())))
            }
            _ => None,
        };
        if let Some(record) = begun {
            *recording = Some(self.begin(record));
        }
        let Some(recording) = &mut *recording else {
            return;
        };
        recording.count(event);
        if let Some(line) = EventLine::of(event, Timestamp::now()) {
            recording.record(&line);
        }
        // A question for approval may wait for hours.
        if matches!(
            event,
            Event::PhaseReached { .. }
                | Event::ApprovalAwaited { .. }
                | Event::ApprovalDecided { .. }
        ) {
            recording.write(&self.reports);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        color::Color,
        deployment::{phase::Phase, plan::Plan},
        evidence::{
            request::{Request, answered_by},
            tally::Tally,
            verdict::{Conclusion, Verdict},
        },
        release::Release,
        state::approval::ApprovalDecision,
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
            ..answered_by(wanted, status)
        }
    }

    fn record(recorder: &Recorder, phase: Phase, reason: Option<&str>) {
        recorder.report(&Event::PhaseReached { phase, reason });
    }

    #[test]
    fn deployment_writes_report_data_and_page() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let recorder = Recorder::new(reports.clone());
        let plan = plan();
        recorder.report(&Event::Planned { plan: &plan });
        record(&recorder, Phase::Planned, None);
        recorder.report(&Event::GateStarted { gate: "golden" });
        let mut verdict =
            Verdict::new(Conclusion::Fail, "right on 1 of 3 inputs").with("accuracy", 0.33);
        verdict = verdict.with("ratio", f64::INFINITY);
        recorder.report(&Event::GateFinished {
            gate: "golden",
            verdict: &verdict,
        });
        let now = Timestamp::now().as_second() as f64;
        let logged = [
            request(now, Color::Blue, 200),
            request(now + 0.5, Color::Blue, 500),
            request(now - 3_600.0, Color::Blue, 200),
        ];
        recorder.report(&Event::RequestsLogged { requests: &logged });
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
        assert_eq!(read.gates[0].verdict, Conclusion::Fail);
        assert!(read.gates[0].started.is_some());
        assert_eq!(
            read.gates[0].numbers.len(),
            1,
            "JSON has no infinity, so the ratio is left out"
        );
        assert_eq!(read.switched, None);
        let [second] = &read.traffic[..] else {
            panic!("{:?}", read.traffic)
        };
        assert_eq!((second.requests, second.failed), (2, 1));
        let page = fs::read_to_string(reports.page(&plan.id)).unwrap();
        assert!(page.contains("right on 1 of 3 inputs"), "{page}");
        for external in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(external), "{external} in {page}");
        }
    }

    #[test]
    fn report_has_each_question_and_its_decision_before_the_next_phase() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let recorder = Recorder::new(reports.clone());
        recorder.report(&Event::Planned { plan: &plan() });
        for evidence in ["aa", "bb"] {
            recorder.report(&Event::ApprovalAwaited {
                before: Phase::Switched,
                evidence,
                expires: Timestamp::now(),
            });
        }
        let asked = reports.read(None).unwrap().approvals;
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].decision, None);
        recorder.report(&Event::ApprovalDecided {
            before: Phase::Switched,
            decision: ApprovalDecision::Approved,
            by: Some("alice@host"),
            reason: Some("looks right"),
        });
        let decided = reports.read(None).unwrap().approvals;
        assert_eq!(decided[0], asked[0], "the first evidence was taken anew");
        assert_eq!(decided[1].evidence, "bb");
        assert_eq!(decided[1].decision, Some(ApprovalDecision::Approved));
        assert_eq!(decided[1].by.as_deref(), Some("alice@host"));
    }

    #[test]
    fn report_counts_clients_by_ending_and_own_requests_apart() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let recorder = Recorder::new(reports.clone());
        recorder.report(&Event::Planned { plan: &plan() });
        record(&recorder, Phase::Planned, None);
        let now = Timestamp::now().as_second() as f64;
        let answered = request(now, Color::Green, 200);
        let mut gave_up = request(now, Color::Green, 499);
        gave_up.attempts[0].status = None;
        let refused = request(now, Color::Green, 422);
        let own = |request: &Request| Request {
            by_deployer: true,
            ..request.clone()
        };
        let own_later = Request {
            at: now + 1.0,
            ..own(&gave_up)
        };
        let logged = [
            own(&answered),
            own(&answered),
            answered,
            gave_up,
            refused,
            request(now, Color::Green, 500),
            own_later,
        ];
        recorder.report(&Event::RequestsLogged { requests: &logged });
        record(&recorder, Phase::Promoted, Some("within the limits"));

        let text = fs::read_to_string(reports.data(&reports.read(None).unwrap().plan.id)).unwrap();
        let data: serde_json::Value = serde_json::from_str(&text).unwrap();
        let [first, second] = [0, 1].map(|second| &data["traffic"][second]);
        let endings = serde_json::json!({"answered": 1, "gave_up": 1, "refused": 1, "failed": 1});
        assert_eq!(first["endings"], endings);
        assert_eq!(first["own_endings"], serde_json::json!({"answered": 2}));
        assert_eq!(
            (&first["requests"], &first["failed"]),
            (&4.into(), &1.into())
        );
        assert_eq!(second["own_endings"], serde_json::json!({"gave_up": 1}));
        assert_eq!(second["requests"], 0);
    }

    #[test]
    fn report_continues_after_killed_deployer() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        let first = Recorder::new(reports.clone());
        first.report(&Event::Planned { plan: &plan });
        record(&first, Phase::Planned, None);
        let second = Recorder::new(reports.clone());
        second.report(&Event::Resumed {
            plan: &plan,
            phase: Phase::Planned,
            since: Timestamp::now(),
        });
        record(
            &second,
            Phase::Refused,
            Some("the deployer was interrupted"),
        );
        let read = reports.read(Some(&plan.id)).unwrap();
        let phases: Vec<Phase> = read.phases.iter().map(|reached| reached.phase).collect();
        assert_eq!(phases, [Phase::Planned, Phase::Refused]);
    }

    #[test]
    fn report_records_end_by_a_later_command() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        let first = Recorder::new(reports.clone());
        first.report(&Event::Planned { plan: &plan });
        record(&first, Phase::Planned, None);
        reports.end(&plan.id, Phase::Refused, "by hand").unwrap();
        let read = reports.read(None).unwrap();
        assert_eq!(read.headline(), "sentiment v2 refused: by hand");
        reports.end("unknown", Phase::Refused, "by hand").unwrap();
    }

    /// A deployment until its bake, with notes.
    fn bake(recorder: &Recorder, plan: &Plan) {
        recorder.report(&Event::Planned { plan });
        record(recorder, Phase::Planned, None);
        record(recorder, Phase::Starting, None);
        recorder.report(&Event::AwaitingHealth {
            elapsed: std::time::Duration::from_secs(3),
            without_progress: std::time::Duration::from_secs(1),
            stall: std::time::Duration::from_secs(30),
            reason: "connection refused".to_owned(),
            last_line: None,
        });
        record(recorder, Phase::Healthy, None);
        recorder.report(&Event::GateStarted { gate: "golden" });
        let verdict = Verdict::new(Conclusion::Pass, "right on 3 of 3 inputs");
        recorder.report(&Event::GateFinished {
            gate: "golden",
            verdict: &verdict.with("accuracy", 1.0),
        });
        let (from, to) = (plan.active, plan.idle);
        recorder.report(&Event::TrafficMoved {
            from,
            to,
            unconfirmed: &[],
        });
        record(recorder, Phase::Switched, None);
        recorder.report(&Event::BakeObserved {
            elapsed: std::time::Duration::from_secs(1),
            of: std::time::Duration::from_mins(1),
            tally: Tally::from_iter([true, false]),
            trouble: None,
        });
        recorder.report(&Event::Note {
            text: "the hook failed".to_owned(),
        });
    }

    #[test]
    fn live_file_replayed_is_the_report() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let recorder = Recorder::new(reports.clone());
        let plan = plan();
        bake(&recorder, &plan);
        let live = reports.live().replay(&plan.id).unwrap();
        let bake = live.progress.bake.unwrap();
        assert_eq!((bake.requests, bake.failed), (2, 1));
        record(&recorder, Phase::Promoted, Some("within the limits"));
        assert_eq!(recorder.live_problem(), None);
        let live = reports.live().replay(&plan.id).unwrap();
        assert_eq!(live, reports.read(Some(&plan.id)).unwrap());
        assert!(live.gates[0].started.is_some());
        // A later command ends it again, as a rollback does.
        let reason = "by hand";
        reports.end(&plan.id, Phase::RolledBack, reason).unwrap();
        let live = reports.live().replay(&plan.id).unwrap();
        assert_eq!(live, reports.read(Some(&plan.id)).unwrap());
        assert_eq!(live.phase(), Some(Phase::RolledBack));
    }

    #[test]
    fn resumed_deployment_keeps_what_only_the_live_file_has() {
        let directory = tempfile::tempdir().unwrap();
        let reports = Reports::of(directory.path());
        let plan = plan();
        // Killed after the note, which no phase wrote to the report.
        bake(&Recorder::new(reports.clone()), &plan);
        assert!(reports.read(Some(&plan.id)).unwrap().notes.is_empty());
        let second = Recorder::new(reports.clone());
        second.report(&Event::Resumed {
            plan: &plan,
            phase: Phase::Switched,
            since: Timestamp::now(),
        });
        record(
            &second,
            Phase::RolledBack,
            Some("the deployer was interrupted"),
        );
        let read = reports.read(Some(&plan.id)).unwrap();
        assert_eq!(read.notes, ["the hook failed"]);
        assert_eq!(reports.live().replay(&plan.id).unwrap(), read);
    }

    #[test]
    fn unwritable_live_file_is_a_problem_and_the_report_is_written() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("live"), "in the way").unwrap();
        let reports = Reports::of(directory.path());
        let recorder = Recorder::new(reports.clone());
        recorder.report(&Event::Planned { plan: &plan() });
        record(&recorder, Phase::Planned, None);
        assert_eq!(recorder.problem(), None);
        let problem = recorder.live_problem().unwrap();
        assert!(problem.starts_with("cannot write "), "{problem}");
        assert!(reports.read(None).is_ok());
    }

    #[test]
    fn unwritable_report_is_a_problem_of_the_recorder() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("reports"), "in the way").unwrap();
        let recorder = Recorder::new(Reports::of(directory.path()));
        recorder.report(&Event::Planned { plan: &plan() });
        record(&recorder, Phase::Planned, None);
        let problem = recorder.problem().unwrap();
        assert!(problem.starts_with("cannot create the report"), "{problem}");
    }
}

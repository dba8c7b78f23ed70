//! Records a deployment in report files.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::{
    color::Color,
    event::{Event, Reporter},
    evidence::{ending_counts::EndingCounts, request::Request, statistics::quantile},
    report::{
        record::{ApprovalRecord, GateRecord, PhaseRecord, Record, TrafficSecond},
        reports::{ReportError, Reports},
    },
};

/// Requests that were logged earlier than this many seconds before the deployment are left out.
const BEFORE: f64 = 60.0;

/// Records a deployment, and writes the report at each phase, so that it survives a killed deployer.
pub struct Recorder {
    reports: Reports,
    /// `None` until a deployment begins.
    recording: Mutex<Option<Recording>>,
}

/// The record so far.
struct Recording {
    record: Record,
    gate_started: Option<Timestamp>,
    seconds: BTreeMap<(i64, Color), Bucket>,
    problem: Option<ReportError>,
}

/// What was logged for a color within a second.
#[derive(Default)]
struct Bucket {
    failed: u64,
    waits: Vec<f64>,
    endings: EndingCounts,
    own_endings: EndingCounts,
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

    /// Why the last write failed, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let recording = self.lock();
        Some(recording.as_ref()?.problem.as_ref()?.to_string())
    }
}

impl Recording {
    fn with(record: Record) -> Self {
        Self {
            record,
            gate_started: None,
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
            let Some((wanted, ending)) = request.ending() else {
                continue;
            };
            #[expect(clippy::cast_possible_truncation, reason = "a second of our time fits")]
            let second = request.at.floor() as i64;
            let bucket = self.seconds.entry((second, wanted)).or_default();
            if request.by_deployer {
                bucket.own_endings.count(ending);
                continue;
            }
            bucket.endings.count(ending);
            bucket.failed += u64::from(ending.is_good(false) == Some(false));
            bucket.waits.push(request.waited.as_secs_f64());
        }
    }

    /// Writes the report.
    fn write(&mut self, reports: &Reports) {
        self.gather();
        self.problem = reports.write(&self.record).err();
    }

    /// Aggregates the logged seconds.
    fn gather(&mut self) {
        if self.seconds.is_empty() {
            return;
        }
        self.record.traffic = self
            .seconds
            .iter_mut()
            .map(|((second, color), bucket)| {
                bucket.waits.sort_by(f64::total_cmp);
                TrafficSecond {
                    second: *second,
                    color: *color,
                    requests: bucket.endings.total(),
                    failed: bucket.failed,
                    p50: quantile(&bucket.waits, 0.5),
                    p99: quantile(&bucket.waits, 0.99),
                    endings: bucket.endings.clone(),
                    own_endings: bucket.own_endings.clone(),
                }
            })
            .collect();
    }
}

impl Reporter for Recorder {
    fn report(&self, event: &Event<'_>) {
        let mut recording = self.lock();
        let begun = match event {
            Event::Planned { plan } => Some(Record::new((*plan).clone())),
            // A lost or damaged report is replaced: the end deserves a page.
            Event::Resumed { plan, .. } => {
                let kept = self.reports.read(Some(&plan.id));
                Some(kept.unwrap_or_else(|_| Record::new((*plan).clone())))
            }
            _ => None,
        };
        if let Some(record) = begun {
            *recording = Some(Recording::with(record));
        }
        let Some(recording) = &mut *recording else {
            return;
        };
        match event {
            Event::Note { text } => recording.record.notes.push(text.clone()),
            Event::GateStarted { .. } => recording.gate_started = Some(Timestamp::now()),
            Event::GateFinished { gate, verdict } => {
                let judged = GateRecord::new(gate, recording.gate_started.take(), verdict);
                recording.record.gates.push(judged);
            }
            Event::TrafficMoved { to, .. } if *to == recording.record.plan.idle => {
                recording.record.switched = Some(Timestamp::now());
            }
            Event::RequestsLogged { requests } => recording.log(requests),
            Event::ApprovalAwaited {
                before,
                evidence,
                expires,
            } => {
                recording.record.approvals.push(ApprovalRecord {
                    before: *before,
                    evidence: (*evidence).to_owned(),
                    asked: Timestamp::now(),
                    expires: *expires,
                    decided: None,
                    decision: None,
                    by: None,
                    reason: None,
                });
                recording.write(&self.reports);
            }
            Event::ApprovalDecided {
                decision,
                by,
                reason,
                ..
            } => {
                if let Some(asked) = recording.record.approvals.last_mut() {
                    asked.decided = Some(Timestamp::now());
                    asked.decision = Some(*decision);
                    asked.by = by.map(str::to_owned);
                    asked.reason = reason.map(str::to_owned);
                }
                recording.write(&self.reports);
            }
            Event::PhaseReached { phase, reason } => {
                let at = Timestamp::now();
                recording
                    .record
                    .phases
                    .push(PhaseRecord { phase: *phase, at });
                recording.record.reason = reason.map(str::to_owned);
                recording.write(&self.reports);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        deployment::{phase::Phase, plan::Plan},
        evidence::{
            request::answered_by,
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

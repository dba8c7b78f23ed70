//! A deployment as one OpenTelemetry trace: phases and gates are spans, and verdicts are attributes.
//!
//! The names follow the semantic conventions for CI/CD and deployments, version 1.44.0. Attributes that begin with
//! `deployer.` are the deployer's own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use opentelemetry::{
    Array, Context, KeyValue, StringValue, Value,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
        TraceId, TraceState, Tracer as _,
    },
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, Span};

use crate::{
    deployment::{phase::Phase, plan::Plan, trace::DeploymentTrace},
    event::{Event, Reporter},
    evidence::verdict::{Conclusion, Verdict},
};

/// Generates IDs at random, except for those of the next root span, which the plan has.
#[derive(Debug, Clone, Default)]
pub struct RootIds {
    random: RandomIdGenerator,
    next: Arc<Mutex<Option<(TraceId, SpanId)>>>,
}

impl RootIds {
    fn next(&self) -> MutexGuard<'_, Option<(TraceId, SpanId)>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdGenerator for RootIds {
    fn new_trace_id(&self) -> TraceId {
        let planned = self.next().map(|(trace, _)| trace);
        planned.unwrap_or_else(|| self.random.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        let planned = self.next().map(|(_, span)| span);
        planned.unwrap_or_else(|| self.random.new_span_id())
    }
}

/// Turns the events of a deployment into spans.
pub struct TraceReporter {
    tracer: SdkTracer,
    ids: RootIds,
    /// `None` until a deployment begins that is traced.
    traced: Mutex<Traced>,
}

/// The spans that have not ended.
#[derive(Default)]
struct Traced {
    deployment: Option<Deployment>,
    has_spans: bool,
}

struct Deployment {
    id: String,
    root: Span,
    /// The context whose span is the root.
    context: Context,
    phase: Option<OpenPhase>,
}

struct OpenPhase {
    phase: Phase,
    since: SystemTime,
    span: Span,
    gate_started: Option<SystemTime>,
}

impl TraceReporter {
    /// Creates a reporter whose spans are created by `tracer`, and whose IDs by `ids`.
    #[must_use]
    pub fn new(tracer: SdkTracer, ids: RootIds) -> Self {
        Self {
            tracer,
            ids,
            traced: Mutex::default(),
        }
    }

    /// Returns whether any deployment was traced.
    #[must_use]
    pub fn has_spans(&self) -> bool {
        self.lock().has_spans
    }

    fn lock(&self) -> MutexGuard<'_, Traced> {
        self.traced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the root span; `None` if the deployment is not traced, or if its IDs are invalid.
    fn begin(&self, plan: &Plan) -> Option<Deployment> {
        let trace = plan.trace.as_ref()?;
        let (trace_id, span_id) = ids(&trace.id, &trace.span)?;
        let caller = caller(trace, trace_id);
        let began = plan.began.map_or_else(SystemTime::now, SystemTime::from);
        let pipeline = format!("deploy {}", plan.release.model);
        let builder = self
            .tracer
            .span_builder(format!("RUN {pipeline}"))
            .with_kind(SpanKind::Server)
            .with_start_time(began)
            .with_attributes(root_attributes(plan, pipeline));
        *self.ids.next() = Some((trace_id, span_id));
        let root = builder.start_with_context(&self.tracer, &caller);
        *self.ids.next() = None;
        let context = Context::new().with_remote_span_context(root.span_context().clone());
        Some(Deployment {
            id: plan.id.clone(),
            root,
            context,
            phase: None,
        })
    }

    fn open_phase(&self, deployment: &mut Deployment, phase: Phase, since: SystemTime) {
        let span = self.task(
            deployment,
            phase.name(),
            "deploy",
            since,
            &deployment.context,
        );
        deployment.phase = Some(OpenPhase {
            phase,
            since,
            span,
            gate_started: None,
        });
    }

    /// Begins the span of a task of the pipeline.
    fn task(
        &self,
        deployment: &Deployment,
        name: &'static str,
        kind: &'static str,
        since: SystemTime,
        parent: &Context,
    ) -> Span {
        let run = format!("{}/{name}", deployment.id);
        let builder = self.tracer.span_builder(name).with_start_time(since);
        let builder = builder.with_attributes([
            KeyValue::new("cicd.pipeline.task.name", name),
            KeyValue::new("cicd.pipeline.task.run.id", run),
            KeyValue::new("cicd.pipeline.task.type", kind),
        ]);
        builder.start_with_context(&self.tracer, parent)
    }

    fn gate(&self, deployment: &mut Deployment, gate: &'static str, verdict: &Verdict) {
        let Some(phase) = &mut deployment.phase else {
            return;
        };
        // The bake begins with its phase.
        let since = phase.gate_started.take().unwrap_or(phase.since);
        let parent = phase.span.span_context().clone();
        let parent = Context::new().with_remote_span_context(parent);
        let mut span = self.task(deployment, gate, "test", since, &parent);
        span.set_attributes(verdict_attributes(verdict));
        if verdict.conclusion == Conclusion::Fail {
            span.set_attribute(KeyValue::new("error.type", "gate_failed"));
            span.set_status(Status::error(verdict.summary.clone()));
        }
        span.end();
    }
}

impl Reporter for TraceReporter {
    fn report(&self, event: &Event<'_>) {
        let mut traced = self.lock();
        if let Event::Planned { plan } | Event::Resumed { plan, .. } = event {
            traced.deployment = self.begin(plan);
            traced.has_spans |= traced.deployment.is_some();
        }
        let Some(deployment) = &mut traced.deployment else {
            return;
        };
        match event {
            Event::Resumed { phase, since, .. } => {
                self.open_phase(deployment, *phase, SystemTime::from(*since));
            }
            Event::GateStarted { .. } => {
                if let Some(phase) = &mut deployment.phase {
                    phase.gate_started = Some(SystemTime::now());
                }
            }
            Event::GateFinished { gate, verdict } => self.gate(deployment, gate, verdict),
            Event::TrafficMoved { from, to, .. } => {
                if let Some(phase) = &mut deployment.phase {
                    let colors = vec![
                        KeyValue::new("deployer.from", from.name()),
                        KeyValue::new("deployer.to", to.name()),
                    ];
                    phase.span.add_event("traffic_moved", colors);
                }
            }
            Event::PhaseReached { phase, reason } => {
                deployment.end_phase(*phase);
                if phase.is_end() {
                    deployment.end(*phase, *reason);
                    traced.deployment = None;
                } else {
                    self.open_phase(deployment, *phase, SystemTime::now());
                }
            }
            _ => {}
        }
    }
}

impl Deployment {
    /// Ends the span of the phase before `next`.
    fn end_phase(&mut self, next: Phase) {
        let Some(OpenPhase {
            phase, mut span, ..
        }) = self.phase.take()
        else {
            return;
        };
        let succeeded = phase.on_success() == Some(next);
        let result = if succeeded { "success" } else { result(next) };
        span.set_attribute(KeyValue::new("cicd.pipeline.task.run.result", result));
        if !succeeded {
            span.set_attribute(KeyValue::new("error.type", next.name()));
            span.set_status(Status::error(next.as_str()));
        }
        span.end();
    }

    fn end(&mut self, phase: Phase, reason: Option<&str>) {
        let result = result(phase);
        let status = if phase == Phase::Promoted {
            "succeeded"
        } else {
            "failed"
        };
        self.root.set_attributes([
            KeyValue::new("cicd.pipeline.result", result),
            KeyValue::new("deployment.status", status),
            KeyValue::new("deployer.phase", phase.name()),
        ]);
        if let Some(reason) = reason {
            self.root
                .set_attribute(KeyValue::new("deployer.reason", reason.to_owned()));
        }
        if phase != Phase::Promoted {
            self.root
                .set_attribute(KeyValue::new("error.type", phase.name()));
            self.root
                .set_status(Status::error(reason.unwrap_or_default().to_owned()));
        }
        self.root.end();
    }
}

/// The result of a pipeline, or of a task, whose deployment is in this phase.
fn result(phase: Phase) -> &'static str {
    match phase {
        Phase::Promoted => "success",
        Phase::Refused | Phase::RolledBack => "failure",
        Phase::Halted => "error",
        // The deployer was interrupted.
        Phase::Planned | Phase::Starting | Phase::Healthy | Phase::Validated | Phase::Switched => {
            "cancellation"
        }
    }
}

fn root_attributes(plan: &Plan, pipeline: String) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("cicd.pipeline.name", pipeline.clone()),
        KeyValue::new("cicd.pipeline.action.name", "RUN"),
        KeyValue::new("cicd.pipeline.run.id", plan.id.clone()),
        KeyValue::new("deployment.id", plan.id.clone()),
        KeyValue::new("deployment.name", pipeline),
        KeyValue::new("model.name", plan.release.model.clone()),
        KeyValue::new("model.version", plan.release.version.clone()),
        KeyValue::new("deployer.candidate", plan.idle.name()),
        KeyValue::new("deployer.previous", plan.active.name()),
    ];
    let digest = plan.release.digest.clone();
    attributes.extend(digest.map(|digest| KeyValue::new("model.digest", digest)));
    attributes
}

fn verdict_attributes(verdict: &Verdict) -> Vec<KeyValue> {
    let (name, result) = match verdict.conclusion {
        Conclusion::Pass => ("pass", "success"),
        Conclusion::Fail => ("fail", "failure"),
        Conclusion::Skipped => ("skipped", "skip"),
        // The conventions have no name for a test that ran and proves nothing.
        Conclusion::Inconclusive => ("inconclusive", "inconclusive"),
    };
    let mut attributes = vec![
        KeyValue::new("cicd.pipeline.task.run.result", result),
        KeyValue::new("deployer.gate.verdict", name),
        KeyValue::new("deployer.gate.summary", verdict.summary.clone()),
    ];
    let numbers = verdict.numbers.iter();
    attributes.extend(
        numbers.map(|(name, value)| KeyValue::new(format!("deployer.gate.numbers.{name}"), *value)),
    );
    if !verdict.warnings.is_empty() {
        let warnings = verdict.warnings.iter().cloned().map(StringValue::from);
        let warnings = Value::Array(Array::String(warnings.collect()));
        attributes.push(KeyValue::new("deployer.gate.warnings", warnings));
    }
    attributes
}

/// Parses IDs that were written by this program, but that a person may have edited.
fn ids(trace: &str, span: &str) -> Option<(TraceId, SpanId)> {
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span))
}

/// The context of the caller's span. Without a caller, the deployment begins the trace.
fn caller(trace: &DeploymentTrace, id: TraceId) -> Context {
    let parent = trace.parent.as_ref();
    let Some(parent) = parent.and_then(|parent| SpanId::from_hex(parent).ok()) else {
        return Context::new();
    };
    let flags = TraceFlags::default().with_sampled(trace.sampled);
    let span = SpanContext::new(id, parent, flags, true, TraceState::NONE);
    Context::new().with_remote_span_context(span)
}

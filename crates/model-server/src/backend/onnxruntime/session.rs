use std::{
    ffi::{CString, c_char},
    path::Path,
    ptr::{self, NonNull},
    sync::Arc,
    thread,
};

use ort::{
    AsPointer as _, Error as OrtError,
    environment::Environment,
    ep::CPU,
    session::{Session, builder::GraphOptimizationLevel},
    value::{DynValue, Outlet, Tensor as OrtTensor},
};

use crate::backend::{
    engine::{
        Engine, EngineError, EngineKind, EngineTask, EngineUnavailable, GraphError, Model,
        Parallelism,
    },
    onnx_file::GraphFile,
    onnxruntime::{
        library::OnnxRuntime,
        malloc::{self, TrimPolicy},
        tensors::{InputRef, spec_of, tensor_of, value_of},
    },
    tensor::{Signature, Tensor, TensorSpec},
};

/// A loaded graph: two sessions that all workers share. Each session holds the weights once.
pub(crate) struct OnnxRuntimeModel {
    /// Runs each pass on the calling thread.
    single: Session,
    /// Runs a pass on all threads; `None` with a single thread.
    all: Option<Session>,
    signature: Signature,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

impl OnnxRuntimeModel {
    /// Loads an `.onnx` file for forward passes on up to `threads` threads.
    ///
    /// The library reads the file itself, because weights in other files are relative to its directory. It maps them
    /// into memory.
    pub(crate) fn load(
        OnnxRuntime(environment): &OnnxRuntime,
        path: &Path,
        graph: &GraphFile,
        threads: usize,
    ) -> Result<Self, GraphError> {
        let unreadable = |error: OrtError| refused(message(&error));
        // Both sessions share these weights.
        let shared = graph.large_lookups().into_iter().map(|table| {
            let tensor = OrtTensor::from_array((table.shape, table.numbers))?;
            Ok((table.name, Arc::new(tensor.into_dyn())))
        });
        let shared: SharedWeights = shared.collect::<Result<_, _>>().map_err(unreadable)?;
        malloc::set_trim_policy(TrimPolicy::Loading);
        let build = |threads| build(environment, path, graph, &shared, threads);
        let (session, all) = thread::scope(|scope| {
            let all = (threads > 1).then(|| scope.spawn(|| build(threads)));
            let single = build(1);
            let all = all.map(|all| {
                all.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            (single, all)
        });
        malloc::set_trim_policy(TrimPolicy::Serving);
        let session = session.map_err(unreadable)?;
        let all = all.transpose().map_err(unreadable)?;
        let specs =
            |outlets: &[Outlet]| -> Result<Vec<_>, _> { outlets.iter().map(spec_of).collect() };
        let signature = Signature {
            inputs: specs(session.inputs())?,
            outputs: specs(session.outputs())?,
        };
        let names = |specs: &[TensorSpec]| {
            let names = specs.iter().map(|spec| CString::new(spec.name.as_str()));
            names
                .collect::<Result<_, _>>()
                .map_err(|error| refused(error.to_string()))
        };
        Ok(Self {
            input_names: names(&signature.inputs)?,
            output_names: names(&signature.outputs)?,
            single: session,
            all,
            signature,
        })
    }

    /// Runs one forward pass. Several threads may call it at the same time.
    ///
    /// `ort` requires `&mut Session`, because some execution providers cannot run concurrently. The CPU
    /// provider, the only one here, can: "Multiple threads can invoke the `Run()` method on the same inference
    /// session object" (ONNX Runtime's C API notes). A session for each worker would hold the weights once for
    /// each worker.
    #[expect(unsafe_code, reason = "the library is called through its C interface")]
    fn run(
        &self,
        session: &Session,
        inputs: &[InputRef<'_>],
        wanted: &[usize],
    ) -> Result<Vec<DynValue>, OrtError> {
        let input_names: Vec<*const c_char> =
            self.input_names.iter().map(|name| name.as_ptr()).collect();
        let values: Vec<*const ort::sys::OrtValue> =
            inputs.iter().map(|value| value.ptr()).collect();
        let output_names: Vec<*const c_char> = wanted
            .iter()
            .map(|at| self.output_names[*at].as_ptr())
            .collect();
        let mut outputs: Vec<*mut ort::sys::OrtValue> = vec![ptr::null_mut(); wanted.len()];
        assert_eq!(input_names.len(), values.len(), "one value for each input");
        // SAFETY: the session, the names, and the values outlive the call. Each array has the length that is
        // passed with it. The CPU provider is thread-safe, see above.
        let status = unsafe {
            (ort::api().Run)(
                session.ptr().cast_mut(),
                ptr::null(),
                input_names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        };
        // SAFETY: the status comes from the call above, and is used only here.
        unsafe { ort::Error::result_from_status(status) }?;
        outputs
            .into_iter()
            .map(|value| {
                let value =
                    NonNull::new(value).ok_or_else(|| OrtError::new("an output is missing"))?;
                // SAFETY: the session allocated this value, and passed its ownership to the caller.
                Ok(unsafe { DynValue::from_ptr(value, Some(session.allocator())) })
            })
            .collect()
    }
}

pub(super) fn refused(reason: String) -> GraphError {
    GraphError::Engine {
        engine: EngineKind::Onnxruntime,
        reason,
    }
}

/// Weights by name, shared by several sessions.
type SharedWeights = Vec<(String, Arc<DynValue>)>;

pub(crate) fn build(
    environment: &Environment,
    path: &Path,
    graph: &GraphFile,
    shared: &SharedWeights,
    threads: usize,
) -> Result<Session, OrtError> {
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // The library's default counts the CPUs of the machine, not those of the cgroup.
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Memory patterns expect equal shapes in each pass, but each batch has another shape.
        .with_memory_pattern(false)?
        // Helper threads spin during a pass, and sleep between passes.
        .with_intra_op_spinning(threads > 1)?
        .with_config_entry("session.force_spinning_stop", "1")?
        // Without the arena, because workers that share a session would exchange memory that is in another
        // core's cache, and wait for each other's locks.
        .with_execution_providers([CPU::default().with_arena_allocator(false).build()])?
        // If only the weights are quantized, 8-bit arithmetic is hardly faster than floats, and its outputs
        // differ from those of the exporter.
        .with_quant_qdq(!graph.has_quantized_weights_only())?;
    for (name, value) in shared {
        builder = builder.with_initializer(name, Arc::clone(value))?;
    }
    builder.commit_from_file(path)
}

/// The message without the library's source locations.
pub(crate) fn message(error: &OrtError) -> String {
    error.message().to_owned()
}

impl Model for OnnxRuntimeModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn engine(self: Arc<Self>) -> Result<Box<dyn Engine>, EngineUnavailable> {
        Ok(Box::new(OnnxRuntimeEngine(self)))
    }
}

/// The engine of one worker. All of them share the sessions.
struct OnnxRuntimeEngine(Arc<OnnxRuntimeModel>);

impl Engine for OnnxRuntimeEngine {
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[usize],
        parallelism: Parallelism,
    ) -> Result<Vec<Tensor>, EngineError> {
        let Self(model) = self;
        let session = match (parallelism, &model.all) {
            (Parallelism::All, Some(all)) => all,
            (Parallelism::Single, _) | (_, None) => &model.single,
        };
        let failed = |error: OrtError| EngineError(message(&error));
        let inputs = inputs.iter().map(value_of);
        let inputs: Vec<_> = inputs.collect::<Result<_, _>>().map_err(failed)?;
        let outputs = model.run(session, &inputs, wanted).map_err(failed)?;
        outputs
            .iter()
            .map(|value| tensor_of(value).map_err(failed))
            .collect()
    }

    fn enter(&mut self, work: EngineTask<'_>) {
        work(self);
    }
}

use std::{
    ffi::{CString, c_char},
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
    engine::{Engine, EngineError, EngineTask, EngineUnavailable, GraphError, Model, Parallelism},
    onnx_file::GraphFile,
    onnxruntime::{
        library::OnnxRuntime,
        malloc::{self, TrimPolicy},
        tensors::{InputRef, spec_of, tensor_of, value_of},
    },
    tensor::{Signature, Tensor, TensorSpec},
};

/// A graph that was read: two sessions, which all workers share. The weights are in memory once per
/// session, not once per worker.
pub(crate) struct OnnxRuntimeModel {
    /// Runs each pass on the thread that asks for it.
    single: Session,
    /// Runs a pass on all threads; only where there are several.
    all: Option<Session>,
    signature: Signature,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

impl OnnxRuntimeModel {
    /// Reads the bytes of a `.onnx` file, for forward passes on up to `threads` threads.
    pub(crate) fn parse(
        OnnxRuntime(environment): &OnnxRuntime,
        bytes: &[u8],
        graph: &GraphFile,
        threads: usize,
    ) -> Result<Self, GraphError> {
        let unreadable = |error: OrtError| GraphError::Unreadable(message(&error));
        // Both sessions use the same copy of these.
        let shared = graph.large_lookups().into_iter().map(|table| {
            let tensor = OrtTensor::from_array((table.shape, table.numbers))?;
            Ok((table.name, Arc::new(tensor.into_dyn())))
        });
        let shared: SharedWeights = shared.collect::<Result<_, _>>().map_err(unreadable)?;
        malloc::set_trim_policy(TrimPolicy::Loading);
        let build = |threads| build(environment, bytes, graph, &shared, threads);
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
                .map_err(|error| GraphError::Unreadable(error.to_string()))
        };
        Ok(Self {
            input_names: names(&signature.inputs)?,
            output_names: names(&signature.outputs)?,
            single: session,
            all,
            signature,
        })
    }

    /// One forward pass; any number of threads may call it at the same time.
    ///
    /// `ort` asks for `&mut Session`, because not every execution provider can run twice at once.
    /// The CPU provider can, and is the only one that this server uses: "Multiple threads can
    /// invoke the `Run()` method on the same inference session object" (ONNX Runtime's C API
    /// notes). With a session for each worker the weights would be in memory that many times.
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
        // SAFETY: the session, the names and the values outlive the call; each array has the
        // length that is given with it; the provider is thread-safe, see above.
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
        // SAFETY: the status comes from the call above and is used nowhere else.
        unsafe { ort::Error::result_from_status(status) }?;
        outputs
            .into_iter()
            .map(|value| {
                let value =
                    NonNull::new(value).ok_or_else(|| OrtError::new("an output is missing"))?;
                // SAFETY: the session made this value with its own allocator and gave it away.
                Ok(unsafe { DynValue::from_ptr(value, Some(session.allocator())) })
            })
            .collect()
    }
}

/// Weights by their names, which several sessions use.
pub(crate) type SharedWeights = Vec<(String, Arc<DynValue>)>;

pub(crate) fn build(
    environment: &Environment,
    bytes: &[u8],
    graph: &GraphFile,
    shared: &SharedWeights,
    threads: usize,
) -> Result<Session, OrtError> {
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // The library's default would count the machine's CPUs, not those of the cgroup.
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Plans memory by the shapes of the first passes; here each pass has another shape.
        .with_memory_pattern(false)?
        // Threads that wait for their part of a pass look for it all the time, and sleep between passes.
        .with_intra_op_spinning(threads > 1)?
        .with_config_entry("session.force_spinning_stop", "1")?
        // Without the library's own memory arena: workers that share a session would hand each other
        // memory that lies in another core's cache, and wait for each other when they take it.
        .with_execution_providers([CPU::default().with_arena_allocator(false).build()])?
        // It would calculate with 8 bits where only the weights have 8 bits: hardly faster than
        // with floats, and other answers than those of the exporter.
        .with_quant_qdq(!graph.has_quantized_weights_only())?;
    for (name, value) in shared {
        builder = builder.with_initializer(name, Arc::clone(value))?;
    }
    builder.commit_from_memory(bytes)
}

/// What went wrong, without the traces of the library's own source.
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

/// One worker's way to the shared session.
pub(crate) struct OnnxRuntimeEngine(Arc<OnnxRuntimeModel>);

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

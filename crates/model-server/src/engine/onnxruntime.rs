use std::{
    env,
    ffi::{CString, c_char},
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use half::f16;
use ort::{
    AsPointer as _, Error as OrtError,
    environment::Environment,
    ep::CPU,
    session::{Session, builder::GraphOptimizationLevel},
    value::{
        DynValue, DynValueTypeMarker, Outlet, Tensor as OrtTensor, TensorElementType, TensorRef,
        ValueRef, ValueType,
    },
};

use super::{
    Datatype, Elements, Engine, EngineError, EngineUnavailable, GraphError, GraphFile, Model,
    Signature, Spread, Tensor, TensorSpec, Work,
    malloc::{self, Given},
};

/// Where distributions and our own image put the library, tried in this order.
const USUAL_PLACES: [&str; 5] = [
    "/usr/local/lib/libonnxruntime.so",
    "/usr/lib/libonnxruntime.so",
    "/usr/lib/x86_64-linux-gnu/libonnxruntime.so",
    "/usr/lib/x86_64-linux-gnu/libonnxruntime.so.1",
    "/usr/lib/aarch64-linux-gnu/libonnxruntime.so.1",
];

/// A process can load one library, and has it from then on.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

/// The library.
#[derive(Debug, Clone)]
pub(crate) struct OnnxRuntime(Environment);

impl OnnxRuntime {
    /// Loads the library from `path`, or from where it usually lies.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, EngineUnavailable> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => usual_place()?,
        };
        let unusable = |reason: &dyn std::fmt::Display| EngineUnavailable::Library {
            path: path.clone(),
            reason: reason.to_string(),
        };
        // Asked first: the loader names neither the path nor the plain cause.
        std::fs::metadata(&path).map_err(|error| unusable(&error))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*loaded {
            return Ok(library.clone());
        }
        let environment = ort::init_from(&path)
            .map_err(|error| unusable(&error))?
            .with_name("model-server")
            // The library's own messages come as errors, where they matter.
            .with_telemetry(false)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(loaded.insert(Self(environment)).clone())
    }
}

fn usual_place() -> Result<PathBuf, EngineUnavailable> {
    let beside = env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("libonnxruntime.so")));
    let places: Vec<PathBuf> = beside
        .into_iter()
        .chain(USUAL_PLACES.iter().map(PathBuf::from))
        .collect();
    places
        .iter()
        .find(|place| place.exists())
        .cloned()
        .ok_or_else(|| {
            let names = places.iter().map(|place| place.display().to_string());
            EngineUnavailable::NotFound(names.collect::<Vec<_>>().join(", "))
        })
}

/// A graph that was read: two sessions, which all workers share. The weights are in memory once per
/// session, not once per worker.
pub(crate) struct OnnxRuntimeModel {
    /// Runs each pass on the thread that asks for it.
    alone: Session,
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
        let unreadable = |error: OrtError| GraphError::Unreadable(plain(&error));
        // Both sessions use the same copy of these.
        let shared = graph.large_lookups().into_iter().map(|table| {
            let tensor = OrtTensor::from_array((table.shape, table.numbers))?;
            Ok((table.name, Arc::new(tensor.into_dyn())))
        });
        let shared: Shared = shared.collect::<Result<_, _>>().map_err(unreadable)?;
        malloc::give_back(Given::FromLoading);
        let build = |threads| build(environment, bytes, graph, &shared, threads);
        let (session, all) = thread::scope(|scope| {
            let all = (threads > 1).then(|| scope.spawn(|| build(threads)));
            let alone = build(1);
            let all = all.map(|all| {
                all.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            (alone, all)
        });
        malloc::give_back(Given::FromPasses);
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
            alone: session,
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

/// A tensor that is lent to the library for one forward pass.
type InputRef<'a> = ValueRef<'a, DynValueTypeMarker>;

/// Weights by their names, which several sessions use.
type Shared = Vec<(String, Arc<DynValue>)>;

fn build(
    environment: &Environment,
    bytes: &[u8],
    graph: &GraphFile,
    shared: &Shared,
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
fn plain(error: &OrtError) -> String {
    error.message().to_owned()
}

fn spec_of(outlet: &Outlet) -> Result<TensorSpec, GraphError> {
    let refused = |datatype: String| GraphError::Datatype {
        name: outlet.name().to_owned(),
        datatype,
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(refused(outlet.dtype().to_string()));
    };
    Ok(TensorSpec {
        name: outlet.name().to_owned(),
        datatype: datatype_of(*ty).ok_or_else(|| refused(ty.to_string()))?,
        shape: shape.iter().map(|it| usize::try_from(*it).ok()).collect(),
    })
}

fn datatype_of(kind: TensorElementType) -> Option<Datatype> {
    Some(match kind {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        _ => return None,
    })
}

fn value_of(tensor: &Tensor) -> Result<InputRef<'_>, OrtError> {
    let shape = tensor.shape.as_slice();
    Ok(match &tensor.elements {
        Elements::Bool(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint8(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint32(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint64(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int8(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int32(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int64(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Fp16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Fp32(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Fp64(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
    })
}

fn tensor_of(value: &DynValue) -> Result<Tensor, OrtError> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(OrtError::new("an output is no tensor"));
    };
    let elements = match datatype_of(*ty) {
        Some(Datatype::Bool) => Elements::Bool(value.try_extract_tensor::<bool>()?.1.to_vec()),
        Some(Datatype::Uint8) => Elements::Uint8(value.try_extract_tensor::<u8>()?.1.to_vec()),
        Some(Datatype::Uint16) => Elements::Uint16(value.try_extract_tensor::<u16>()?.1.to_vec()),
        Some(Datatype::Uint32) => Elements::Uint32(value.try_extract_tensor::<u32>()?.1.to_vec()),
        Some(Datatype::Uint64) => Elements::Uint64(value.try_extract_tensor::<u64>()?.1.to_vec()),
        Some(Datatype::Int8) => Elements::Int8(value.try_extract_tensor::<i8>()?.1.to_vec()),
        Some(Datatype::Int16) => Elements::Int16(value.try_extract_tensor::<i16>()?.1.to_vec()),
        Some(Datatype::Int32) => Elements::Int32(value.try_extract_tensor::<i32>()?.1.to_vec()),
        Some(Datatype::Int64) => Elements::Int64(value.try_extract_tensor::<i64>()?.1.to_vec()),
        Some(Datatype::Fp16) => Elements::Fp16(value.try_extract_tensor::<f16>()?.1.to_vec()),
        Some(Datatype::Fp32) => Elements::Fp32(value.try_extract_tensor::<f32>()?.1.to_vec()),
        Some(Datatype::Fp64) => Elements::Fp64(value.try_extract_tensor::<f64>()?.1.to_vec()),
        None => return Err(OrtError::new(format!("an output holds {ty}"))),
    };
    let length = |it: &i64| usize::try_from(*it).unwrap_or(0);
    Ok(Tensor {
        shape: shape.iter().map(length).collect(),
        elements,
    })
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
struct OnnxRuntimeEngine(Arc<OnnxRuntimeModel>);

impl Engine for OnnxRuntimeEngine {
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[usize],
        spread: Spread,
    ) -> Result<Vec<Tensor>, EngineError> {
        let Self(model) = self;
        let session = match (spread, &model.all) {
            (Spread::All, Some(all)) => all,
            (Spread::Alone, _) | (_, None) => &model.alone,
        };
        let failed = |error: OrtError| EngineError(plain(&error));
        let inputs = inputs.iter().map(value_of);
        let inputs: Vec<_> = inputs.collect::<Result<_, _>>().map_err(failed)?;
        let outputs = model.run(session, &inputs, wanted).map_err(failed)?;
        outputs
            .iter()
            .map(|value| tensor_of(value).map_err(failed))
            .collect()
    }

    fn enter(&mut self, work: Work<'_>) {
        work(self);
    }
}

use std::sync::Arc;

use rten::{
    DataType, Dimension, Model as Graph, ModelOptions, NodeId, NodeInfo, RunOptions, ThreadPool,
    Value, ValueOrView, ValueType, ValueView,
};

use crate::backend::{
    engine::{
        Engine, EngineError, EngineKind, EngineTask, EngineUnavailable, GraphError, Model,
        Parallelism,
    },
    tensor::{Datatype, Elements, Signature, Tensor, TensorSpec},
};

/// A loaded graph, and the thread pool for a pass that uses all threads.
pub(crate) struct RtenModel {
    graph: Graph,
    signature: Signature,
    all_threads: Arc<ThreadPool>,
}

impl RtenModel {
    /// Parses an `.onnx` file. `data` are the files in which it keeps weights, by their paths in the graph.
    pub(crate) fn parse(
        bytes: Vec<u8>,
        data: Vec<(String, Vec<u8>)>,
        threads: usize,
    ) -> Result<Self, GraphError> {
        let mut options = ModelOptions::with_all_ops();
        // Lays out the weights for multiplication once instead of in every pass.
        options.prepack_weights(true);
        for (location, content) in data {
            options.external_data(&location, content);
        }
        let graph = options
            .load(bytes)
            .map_err(|error| refused(error.to_string()))?;
        let specs = |ids: &[NodeId]| -> Result<Vec<_>, _> {
            ids.iter().map(|id| spec_of(&graph, *id)).collect()
        };
        let signature = Signature {
            inputs: specs(graph.input_ids())?,
            outputs: specs(graph.output_ids())?,
        };
        Ok(Self {
            graph,
            signature,
            all_threads: Arc::new(ThreadPool::with_num_threads(threads)),
        })
    }
}

impl Model for RtenModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn engine(self: Arc<Self>) -> Result<Box<dyn Engine>, EngineUnavailable> {
        Ok(Box::new(RtenEngine {
            own_thread: Arc::new(ThreadPool::with_num_threads(1)),
            model: self,
        }))
    }
}

fn refused(reason: String) -> GraphError {
    GraphError::Engine {
        engine: EngineKind::Rten,
        reason,
    }
}

/// rten turns INT32, INT64, and BOOL into 32-bit integers, and FP16 and FP64 into FP32. Its signature has the types of
/// these tensors, but INT64 for integers: exporters write it.
fn spec_of(graph: &Graph, id: NodeId) -> Result<TensorSpec, GraphError> {
    let node = graph.node_info(id);
    let name = node.as_ref().and_then(NodeInfo::name).unwrap_or("");
    let datatype = match node.as_ref().and_then(NodeInfo::dtype) {
        Some(ValueType::Tensor(DataType::Float)) => Datatype::Fp32,
        Some(ValueType::Tensor(DataType::Int32)) => Datatype::Int64,
        Some(ValueType::Tensor(DataType::Int8)) => Datatype::Int8,
        Some(ValueType::Tensor(DataType::UInt8)) => Datatype::Uint8,
        other => {
            let kind = other.map_or("numbers of a type".to_owned(), |kind| kind.to_string());
            let reason = format!("its tensor {name:?} holds {kind} that the engine lacks");
            return Err(refused(reason));
        }
    };
    let shape = node.as_ref().and_then(NodeInfo::shape);
    Ok(TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape
            .unwrap_or_default()
            .into_iter()
            .map(|dimension| match dimension {
                Dimension::Fixed(length) => Some(length),
                Dimension::Symbolic(_) => None,
            })
            .collect(),
    })
}

/// The engine of one worker: the shared graph, and a pool of one thread that runs it.
struct RtenEngine {
    model: Arc<RtenModel>,
    own_thread: Arc<ThreadPool>,
}

impl Engine for RtenEngine {
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[usize],
        parallelism: Parallelism,
    ) -> Result<Vec<Tensor>, EngineError> {
        let graph = &self.model.graph;
        let inputs = graph
            .input_ids()
            .iter()
            .zip(inputs)
            .map(|(id, tensor)| Ok((*id, value_of(tensor)?)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let outputs: Vec<_> = wanted.iter().map(|at| graph.output_ids()[*at]).collect();
        let threads = match parallelism {
            Parallelism::Single => &self.own_thread,
            Parallelism::All => &self.model.all_threads,
        };
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(threads)));
        graph
            .run(inputs, &outputs, Some(options))
            .map_err(|error| EngineError(error.to_string()))?
            .into_iter()
            .map(tensor_of)
            .collect()
    }

    fn enter(&mut self, work: EngineTask<'_>) {
        let own_thread = Arc::clone(&self.own_thread);
        own_thread.run(|| work(self));
    }
}

fn value_of(tensor: &Tensor) -> Result<ValueOrView<'_>, EngineError> {
    let shape = &tensor.shape;
    let failed = |error: &dyn std::fmt::Display| EngineError(error.to_string());
    match &tensor.elements {
        Elements::Fp32(numbers) => ValueView::from_shape(shape, numbers)
            .map(ValueOrView::from)
            .map_err(|error| failed(&error)),
        Elements::Int8(numbers) => ValueView::from_shape(shape, numbers)
            .map(ValueOrView::from)
            .map_err(|error| failed(&error)),
        Elements::Uint8(numbers) => ValueView::from_shape(shape, numbers)
            .map(ValueOrView::from)
            .map_err(|error| failed(&error)),
        Elements::Int64(numbers) => {
            let narrow = |number: &i64| {
                i32::try_from(*number)
                    .map_err(|_| EngineError(format!("{number} does not fit the engine's 32 bits")))
            };
            let numbers = numbers
                .iter()
                .map(narrow)
                .collect::<Result<Vec<i32>, _>>()?;
            Value::from_shape(shape, numbers)
                .map(ValueOrView::from)
                .map_err(|error| failed(&error))
        }
        other => Err(EngineError(format!(
            "the engine rten does not support {}",
            other.datatype()
        ))),
    }
}

fn tensor_of(value: Value) -> Result<Tensor, EngineError> {
    let shape = rten_tensor::Layout::shape(&value).to_vec();
    let elements = match value {
        Value::FloatTensor(tensor) => Elements::Fp32(tensor.into_data()),
        Value::Int8Tensor(tensor) => Elements::Int8(tensor.into_data()),
        Value::UInt8Tensor(tensor) => Elements::Uint8(tensor.into_data()),
        Value::Int32Tensor(tensor) => {
            Elements::Int64(tensor.into_data().into_iter().map(i64::from).collect())
        }
        other => {
            return Err(EngineError(format!(
                "the model returned a {}; expected a tensor",
                other.dtype()
            )));
        }
    };
    Ok(Tensor { shape, elements })
}

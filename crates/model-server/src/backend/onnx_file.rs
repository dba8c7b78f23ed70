//! The few fields of an `.onnx` file that the server itself reads, by their field numbers in onnx.proto
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>). The engines read the rest.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

/// Sharing smaller tables saves too little memory.
const MIN_SHARED_BYTES: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "bytes", tag = "9")]
    raw_data: Bytes,
}

/// A table of floats in a graph that is used by `Gather` only, such as word embeddings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lookup {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Vec<f32>,
}

/// The parts of a graph that the server reads.
#[derive(Debug)]
pub(crate) struct GraphFile(GraphProto);

impl GraphFile {
    /// Parses an `.onnx` file. Weights are not copied.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, String> {
        let model = ModelProto::decode(bytes).map_err(|error| error.to_string())?;
        model.graph.map(Self).ok_or("it holds no graph".to_owned())
    }

    /// Whether the model quantizes its activations at run time. The scale then comes from the whole batch, so
    /// the output for a text depends on the other texts.
    pub(crate) fn quantizes_dynamically(&self) -> bool {
        const DYNAMIC: [&str; 4] = [
            "DynamicQuantizeLinear",
            "DynamicQuantizeMatMul",
            "DynamicQuantizeLSTM",
            "QAttention",
        ];
        let operators = self.operators();
        DYNAMIC.iter().any(|name| operators.contains(name))
    }

    /// Whether the model has quantized weights and float activations.
    pub(crate) fn has_quantized_weights_only(&self) -> bool {
        let operators = self.operators();
        operators.contains("DequantizeLinear") && !operators.contains("QuantizeLinear")
    }

    /// Returns the large tables that are used by `Gather` only. No engine changes their layout, so several
    /// sessions can share one copy.
    pub(crate) fn large_lookups(&self) -> Vec<Lookup> {
        let only_looked_up = |name: &str| {
            let uses = self.0.node.iter().flat_map(|node| {
                let named = |(place, input): (usize, &String)| {
                    (input == name).then(|| node.op_type == "Gather" && place == 0)
                };
                node.input.iter().enumerate().filter_map(named)
            });
            uses.fold(None, |all, this| Some(all.unwrap_or(true) && this)) == Some(true)
        };
        let tables = self.0.initializer.iter().filter(|table| {
            table.data_type == FLOAT
                && table.raw_data.len() >= MIN_SHARED_BYTES
                && only_looked_up(&table.name)
        });
        tables
            .filter_map(|table| {
                let lengths = table.dims.iter().map(|it| usize::try_from(*it).ok());
                let shape: Vec<usize> = lengths.collect::<Option<_>>()?;
                let (chunks, rest) = table.raw_data.as_chunks::<4>();
                let numbers: Vec<f32> = chunks.iter().map(|it| f32::from_le_bytes(*it)).collect();
                let whole = rest.is_empty() && shape.iter().product::<usize>() == numbers.len();
                whole.then(|| Lookup {
                    name: table.name.clone(),
                    shape,
                    numbers,
                })
            })
            .collect()
    }

    fn operators(&self) -> BTreeSet<&str> {
        self.0
            .node
            .iter()
            .map(|node| node.op_type.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(release: &str) -> GraphFile {
        let path = format!(
            "{}/../../models/sentiment/{release}/model.onnx",
            env!("CARGO_MANIFEST_DIR")
        );
        GraphFile::parse(std::fs::read(path).unwrap().into()).unwrap()
    }

    fn node(op_type: &str, input: &[&str]) -> NodeProto {
        NodeProto {
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            op_type: op_type.to_owned(),
        }
    }

    fn table(name: &str) -> TensorProto {
        TensorProto {
            dims: vec![1024, 256],
            data_type: FLOAT,
            name: name.to_owned(),
            raw_data: vec![0; MIN_SHARED_BYTES].into(),
        }
    }

    #[test]
    fn only_second_release_has_quantized_weights() {
        let second = shipped("v2");
        assert!(second.has_quantized_weights_only() && !second.quantizes_dynamically());
        let first = shipped("v1");
        assert!(!first.has_quantized_weights_only() && !first.quantizes_dynamically());
    }

    #[test]
    fn dynamic_quantization_is_detected() {
        let graph = GraphProto {
            node: vec![node("DynamicQuantizeLinear", &["x"])],
            initializer: Vec::new(),
        };
        assert!(GraphFile(graph).quantizes_dynamically());
    }

    #[test]
    fn lookup_tables_have_no_other_use() {
        let graph = GraphProto {
            node: vec![
                node("Gather", &["words", "ids"]),
                node("Gather", &["tied", "ids"]),
                node("MatMul", &["x", "tied"]),
                node("Gather", &["x", "places"]),
                node("MatMul", &["x", "weights"]),
            ],
            initializer: ["words", "tied", "places", "weights", "unused"]
                .map(table)
                .into(),
        };
        let lookups = GraphFile(graph).large_lookups();
        let names: Vec<_> = lookups.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["words"]);
        assert_eq!(lookups[0].shape, [1024, 256]);
    }

    #[test]
    fn invalid_onnx_file_is_refused() {
        assert!(GraphFile::parse(Bytes::from_static(b"not what it was")).is_err());
        assert!(GraphFile::parse(Bytes::new()).is_err());
    }
}

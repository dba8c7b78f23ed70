use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::oip::tensor_data::TensorData;

/// What to take through the model.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a fine film"]}],
}))]
pub(crate) struct InferRequest {
    /// Comes back in the answer.
    pub(crate) id: Option<String>,
    /// `binary_data_output`: all outputs as raw bytes. Others are ignored.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Map<String, Value>,
    /// The tensors; see the model's metadata for what it takes.
    pub(crate) inputs: Vec<RequestInput>,
    /// Which outputs are wanted, and how; all of them without it.
    pub(crate) outputs: Option<Vec<RequestOutput>>,
}

/// A tensor of a request.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RequestInput {
    pub(crate) name: String,
    /// The length of each dimension.
    pub(crate) shape: Vec<u64>,
    /// `BYTES`, `BOOL`, `FP32`, `INT64` and so on.
    pub(crate) datatype: String,
    /// `binary_data_size`: as many bytes behind the JSON hold the data.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Map<String, Value>,
    /// The elements, row by row, in one array or in one per dimension.
    #[schema(value_type = Option<Vec<Value>>)]
    pub(crate) data: Option<Value>,
}

/// An output that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RequestOutput {
    pub(crate) name: String,
    /// `binary_data`: as raw bytes behind the JSON.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Map<String, Value>,
}

/// What the model gave.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InferResponse {
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) outputs: Vec<ResponseOutput>,
}

/// A tensor of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseOutput {
    pub(crate) name: String,
    /// `BYTES`, `BOOL`, `FP32`, `INT64` and so on.
    pub(crate) datatype: &'static str,
    /// The length of each dimension.
    pub(crate) shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<BinarySize>,
    /// The elements, row by row, unless they follow as raw bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>)]
    pub(crate) data: Option<TensorData>,
}

/// Where the elements of an output are, if not here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BinarySize {
    /// As many bytes behind the JSON, after those of the outputs before.
    pub(crate) binary_data_size: usize,
}

/// An output before it is written down.
pub(crate) struct ResponseTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: TensorData,
}

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::oip::tensor_data::TensorData;

/// The inputs for one run of the model.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a fine film"]}],
}))]
pub(crate) struct InferRequest {
    /// Returned in the response.
    pub(crate) id: Option<String>,
    /// `binary_data_output`: all outputs as binary data. Other parameters are ignored.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Map<String, Value>,
    /// The inputs; the model's metadata lists them.
    pub(crate) inputs: Vec<RequestInput>,
    /// The wanted outputs; all by default.
    pub(crate) outputs: Option<Vec<RequestOutput>>,
}

/// An input tensor.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RequestInput {
    pub(crate) name: String,
    /// The length of each dimension.
    pub(crate) shape: Vec<u64>,
    /// `BYTES`, `BOOL`, `FP32`, `INT64`, and so on.
    pub(crate) datatype: String,
    /// `binary_data_size`: length of the data after the JSON.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Map<String, Value>,
    /// The elements in row-major order, flat or nested.
    #[schema(value_type = Option<Vec<Value>>)]
    pub(crate) data: Option<Value>,
}

/// A wanted output.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RequestOutput {
    pub(crate) name: String,
    /// `binary_data`: as binary data after the JSON.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Map<String, Value>,
}

/// The outputs of the model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InferResponse {
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) outputs: Vec<ResponseOutput>,
}

/// An output tensor.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseOutput {
    pub(crate) name: String,
    /// `BYTES`, `BOOL`, `FP32`, `INT64`, and so on.
    pub(crate) datatype: &'static str,
    /// The length of each dimension.
    pub(crate) shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<BinarySize>,
    /// The elements in row-major order, unless they follow as binary data.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>)]
    pub(crate) data: Option<TensorData>,
}

/// The parameters of an output that follows as binary data.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BinarySize {
    /// Length of the data after the JSON, in the order of the outputs.
    pub(crate) binary_data_size: usize,
}

/// An output before it is encoded.
pub(crate) struct ResponseTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: TensorData,
}

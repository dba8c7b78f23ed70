use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::oip::tensor_data::TensorData;

/// The parameters of a request, an input, or an output. The protocol leaves them open: servers ignore what they do not
/// know.
pub(crate) type Parameters = Map<String, Value>;

/// An element of a tensor, or a row of elements.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "it only describes elements, which `TensorData` reads"
)]
pub(crate) enum TensorElement {
    Number(f64),
    Boolean(bool),
    String(String),
    Row(Vec<Value>),
}

/// A JSON object, and the binary data after it. `inference-header-content-length` is the length of the JSON object.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(
    dead_code,
    reason = "it only describes bodies, which handlers read as bytes"
)]
pub(crate) struct BinaryTensors(Vec<u8>);

/// The inputs for one run of the model.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a fine film"]}],
}))]
pub(crate) struct InferRequest {
    /// Returned in the response.
    pub(crate) id: Option<String>,
    /// `binary_data_output`: all outputs as binary data. Other parameters are ignored.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub(crate) parameters: Option<Parameters>,
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
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub(crate) parameters: Option<Parameters>,
    /// The elements in row-major order, flat or nested.
    #[schema(value_type = Option<Vec<TensorElement>>)]
    pub(crate) data: Option<Value>,
}

/// A wanted output.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RequestOutput {
    pub(crate) name: String,
    /// `binary_data`: as binary data after the JSON.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub(crate) parameters: Option<Parameters>,
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
    #[schema(value_type = Option<Vec<TensorElement>>)]
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

use std::fmt::Display;

use crate::{
    api::{
        error::ApiError,
        oip::{
            model_path::TEXT,
            tensor_data::{ElementType, TensorData, cast},
            types::{Parameters, RequestInput},
        },
    },
    backend::tensor::{Signature, Tensor, TensorSpec},
};
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName},
};

/// The header with the length of the JSON, if binary tensors follow it.
pub(crate) const JSON_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

/// The largest tensors for a model of texts. They equal the limits for texts, because a larger forward pass
/// could take gigabytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenLimit {
    /// The most tokens of one text.
    pub(super) length: usize,
    /// The most tokens of all texts, padding included.
    pub(super) elements: usize,
}

pub(crate) fn wrong(field: &'static str, problem: impl Display) -> ApiError {
    ApiError::Field {
        field,
        problem: problem.to_string(),
    }
}

/// Splits a body into its JSON and the binary tensors after it.
pub(crate) fn split<'a>(
    headers: &HeaderMap,
    body: &'a Bytes,
) -> Result<(&'a [u8], &'a [u8]), ApiError> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok((body, &[]));
    };
    let length = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    length
        .and_then(|length| body.split_at_checked(length))
        .ok_or_else(|| {
            wrong(
                "inference-header-content-length",
                format!(
                    "Inference-Header-Content-Length is {value:?}; expected the length of the JSON, at most the {} bytes of the body",
                    body.len()
                ),
            )
        })
}

/// The name, shape, and data of an input.
pub(crate) type RequestTensor<'a> = (&'a str, Vec<usize>, TensorData);

pub(crate) fn decode<'a>(
    inputs: &'a [RequestInput],
    mut binary: &[u8],
) -> Result<Vec<RequestTensor<'a>>, ApiError> {
    let mut decoded: Vec<RequestTensor<'a>> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name = input.name.as_str();
        let refused = |problem: String| wrong("inputs", format!("input {name:?}: {problem}"));
        if decoded.iter().any(|(other, ..)| *other == name) {
            return Err(refused("it is given twice".to_owned()));
        }
        let kind = ElementType::named(&input.datatype).map_err(refused)?;
        let data = match (binary_size(input.parameters.as_ref()), &input.data) {
            (Err(problem), _) => return Err(refused(problem)),
            (Ok(Some(size)), None) => {
                let (bytes, rest) = binary.split_at_checked(size).ok_or_else(|| {
                    refused(format!(
                        "binary_data_size is {size}, but only {} bytes of the body are left",
                        binary.len()
                    ))
                })?;
                binary = rest;
                TensorData::from_bytes(kind, bytes).map_err(refused)?
            }
            (Ok(None), Some(data)) => TensorData::from_json(kind, data).map_err(refused)?,
            (Ok(Some(_)), Some(_)) | (Ok(None), None) => {
                return Err(refused(
                    "expected either data or binary_data_size".to_owned(),
                ));
            }
        };
        let shape = shape(&input.shape, data.len()).map_err(refused)?;
        decoded.push((name, shape, data));
    }
    if binary.is_empty() {
        Ok(decoded)
    } else {
        let problem = format!(
            "{} bytes at the end of the body belong to no input",
            binary.len()
        );
        Err(wrong("inputs", problem))
    }
}

fn binary_size(parameters: Option<&Parameters>) -> Result<Option<usize>, String> {
    let Some(value) = parameters.and_then(|it| it.get("binary_data_size")) else {
        return Ok(None);
    };
    let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
    size.map(Some)
        .ok_or_else(|| format!("binary_data_size is {value}; expected a number of bytes"))
}

/// Checks that a shape has `count` elements.
pub(crate) fn shape(lengths: &[u64], count: usize) -> Result<Vec<usize>, String> {
    let lengths_of: Option<Vec<usize>> =
        lengths.iter().map(|it| usize::try_from(*it).ok()).collect();
    let product = |shape: &Vec<usize>| {
        shape
            .iter()
            .try_fold(1_usize, |all, it| all.checked_mul(*it))
    };
    lengths_of
        .filter(|shape| product(shape) == Some(count))
        .ok_or_else(|| {
            format!("the shape {lengths:?} does not hold the {count} elements of the data")
        })
}

/// Returns the texts of the input `text`.
pub(crate) fn texts(
    shape: &[usize],
    data: &TensorData,
    most: usize,
) -> Result<Vec<String>, ApiError> {
    let refused = |problem: String| wrong("inputs", format!("input {TEXT:?}: {problem}"));
    let TensorData::Bytes(strings) = data else {
        return Err(refused(format!(
            "datatype is {}; expected BYTES",
            data.kind().name()
        )));
    };
    if !matches!(shape, [_] | [_, 1]) {
        return Err(refused(format!(
            "shape is {shape:?}; expected [n] or [n, 1]"
        )));
    }
    if strings.is_empty() || strings.len() > most {
        return Err(refused(format!(
            "it holds {} texts; expected 1 to {most}",
            strings.len()
        )));
    }
    let text = |(place, string): (usize, &Vec<u8>)| {
        let text = std::str::from_utf8(string)
            .map_err(|error| refused(format!("element {place} is not valid UTF-8: {error}")))?;
        if text.trim().is_empty() {
            return Err(refused(format!(
                "element {place} is blank; expected some words"
            )));
        }
        Ok(text.to_owned())
    };
    strings.iter().enumerate().map(text).collect()
}

/// Returns all inputs of the graph, in its order.
pub(crate) fn tensors(
    signature: &Signature,
    mut inputs: Vec<RequestTensor<'_>>,
    limit: Option<TokenLimit>,
) -> Result<Vec<Tensor>, ApiError> {
    let names = || {
        let names = signature.inputs.iter().map(|input| input.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let mut tensors = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let place = inputs.iter().position(|(name, ..)| *name == spec.name);
        let Some(place) = place else {
            let problem = format!(
                "input {:?} is missing; the model takes {}",
                spec.name,
                names()
            );
            return Err(wrong("inputs", problem));
        };
        let (name, shape, data) = inputs.swap_remove(place);
        let tensor = tensor(spec, shape, data, limit);
        tensors.push(tensor.map_err(|it| wrong("inputs", format!("input {name:?}: {it}")))?);
    }
    match inputs.first() {
        None => Ok(tensors),
        Some((name, ..)) => {
            let problem = format!("input {name:?} is unknown; the model takes {}", names());
            Err(wrong("inputs", problem))
        }
    }
}

pub(crate) fn tensor(
    spec: &TensorSpec,
    shape: Vec<usize>,
    data: TensorData,
    limit: Option<TokenLimit>,
) -> Result<Tensor, String> {
    if !spec.admits(&shape) {
        return Err(format!(
            "shape is {shape:?}; expected {}, where -1 stands for any length",
            spec.shape_text()
        ));
    }
    if let Some(TokenLimit { length, elements }) = limit {
        let longest = shape.last().copied().unwrap_or(1);
        if longest > length || data.len() > elements {
            return Err(format!(
                "shape is {shape:?}; this model takes {length} tokens a text and {elements} in one request"
            ));
        }
    }
    let given = data.kind().name();
    let refused = || {
        format!(
            "datatype is {given}; expected {}, or integers that fit it",
            spec.datatype
        )
    };
    let TensorData::Numbers(elements) = data else {
        return Err(refused());
    };
    let elements = cast(elements, spec.datatype).ok_or_else(refused)?;
    Ok(Tensor { shape, elements })
}

use serde_json::Value;

use crate::{
    api::json::json_type_name,
    backend::tensor::{Datatype, Elements},
};

/// Collects all values of nested arrays in order. `serde_json` bounds their depth.
pub(crate) fn flatten<'a>(data: &'a Value, into: &mut Vec<&'a Value>) {
    match data {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        value => into.push(value),
    }
}

/// The message about a value that does not fit the type `expected`.
pub(crate) fn wrong(value: &Value, expected: &str) -> String {
    let given = match value {
        Value::Number(number) => number.to_string(),
        other => json_type_name(other).to_owned(),
    };
    format!("data holds {given}; expected {expected}")
}

/// Reads all values with one function.
pub(crate) fn each<T>(
    values: &[&Value],
    read: impl Fn(&Value) -> Option<T>,
    refused: impl Fn(&Value) -> String,
) -> Result<Vec<T>, String> {
    let one = |value: &&Value| read(value).ok_or_else(|| refused(value));
    values.iter().map(one).collect()
}

/// An integer that fits the type.
pub(crate) fn whole<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    let number = value.as_i64().map(i128::from);
    let number = number.or_else(|| value.as_u64().map(i128::from));
    T::try_from(number?).ok()
}

/// A float that does not overflow to infinity.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest float is intended; an overflow is refused"
)]
pub(crate) fn single(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    number.is_finite().then_some(number)
}

/// The same for 16-bit floats.
pub(crate) fn half(value: &Value) -> Option<half::f16> {
    let number = half::f16::from_f64(value.as_f64()?);
    number.is_finite().then_some(number)
}

/// The same for 16-bit floats with the range of FP32.
pub(crate) fn bfloat(value: &Value) -> Option<half::bf16> {
    let number = half::bf16::from_f64(value.as_f64()?);
    number.is_finite().then_some(number)
}

pub(crate) fn numbers(datatype: Datatype, values: &[&Value]) -> Result<Elements, String> {
    let refused = |value: &Value| wrong(value, datatype.name());
    Ok(match datatype {
        Datatype::Bool => Elements::Bool(each(values, Value::as_bool, refused)?),
        Datatype::Uint8 => Elements::Uint8(each(values, whole, refused)?),
        Datatype::Uint16 => Elements::Uint16(each(values, whole, refused)?),
        Datatype::Uint32 => Elements::Uint32(each(values, whole, refused)?),
        Datatype::Uint64 => Elements::Uint64(each(values, whole, refused)?),
        Datatype::Int8 => Elements::Int8(each(values, whole, refused)?),
        Datatype::Int16 => Elements::Int16(each(values, whole, refused)?),
        Datatype::Int32 => Elements::Int32(each(values, whole, refused)?),
        Datatype::Int64 => Elements::Int64(each(values, whole, refused)?),
        Datatype::Bf16 => Elements::Bf16(each(values, bfloat, refused)?),
        Datatype::Fp16 => Elements::Fp16(each(values, half, refused)?),
        Datatype::Fp32 => Elements::Fp32(each(values, single, refused)?),
        Datatype::Fp64 => Elements::Fp64(each(values, Value::as_f64, refused)?),
    })
}

use serde_json::Value;

use crate::{
    api::{json::json_type_name, oip::tensor_data::ElementType},
    backend::tensor::{Datatype, Elements},
};

/// The values in the arrays of `data`, from left to right. The parser bounds their depth.
pub(crate) fn flatten<'a>(data: &'a Value, into: &mut Vec<&'a Value>) {
    match data {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        value => into.push(value),
    }
}

pub(crate) fn wrong(value: &Value, kind: ElementType) -> String {
    let given = match value {
        Value::Number(number) => number.to_string(),
        other => json_type_name(other).to_owned(),
    };
    format!("data holds {given}; expected {}", kind.name())
}

/// Reads all values by one function.
pub(crate) fn each<T>(
    values: &[&Value],
    read: impl Fn(&Value) -> Option<T>,
    refused: impl Fn(&Value) -> String,
) -> Result<Vec<T>, String> {
    let one = |value: &&Value| read(value).ok_or_else(|| refused(value));
    values.iter().map(one).collect()
}

/// A whole number that fits its kind.
pub(crate) fn whole<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    let number = value.as_i64().map(i128::from);
    let number = number.or_else(|| value.as_u64().map(i128::from));
    T::try_from(number?).ok()
}

/// A float, unless it is so large that it would become endless.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest float is what was asked for; what becomes endless is refused"
)]
pub(crate) fn single(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    number.is_finite().then_some(number)
}

/// The same of 16 bits.
pub(crate) fn half(value: &Value) -> Option<half::f16> {
    let number = half::f16::from_f64(value.as_f64()?);
    number.is_finite().then_some(number)
}

pub(crate) fn numbers(datatype: Datatype, values: &[&Value]) -> Result<Elements, String> {
    let refused = |value: &Value| wrong(value, ElementType::Numbers(datatype));
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
        Datatype::Fp16 => Elements::Fp16(each(values, half, refused)?),
        Datatype::Fp32 => Elements::Fp32(each(values, single, refused)?),
        Datatype::Fp64 => Elements::Fp64(each(values, Value::as_f64, refused)?),
    })
}

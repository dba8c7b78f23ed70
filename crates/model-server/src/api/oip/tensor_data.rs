//! Tensors of the protocol, as JSON or as binary data.

use serde::{Serialize, Serializer, ser::SerializeSeq as _};
use serde_json::Value;

use crate::{
    api::oip::{
        tensor_binary::{from_little_endian, strings, to_little_endian},
        tensor_json::{flatten, numbers, wrong},
    },
    backend::tensor::{Datatype, Elements},
};

/// The protocol's type for byte strings. Texts use it; graphs never do.
pub(crate) const BYTES: &str = "BYTES";

/// The data of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TensorData {
    /// Numbers or booleans.
    Numbers(Elements),
    /// Byte strings.
    Bytes(Vec<Vec<u8>>),
}

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ElementType {
    Numbers(Datatype),
    Bytes,
}

impl ElementType {
    /// Parses the protocol's name of a type.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        if name == BYTES {
            return Ok(Self::Bytes);
        }
        let kind = Datatype::ALL.iter().find(|kind| kind.name() == name);
        kind.map(|kind| Self::Numbers(*kind)).ok_or_else(|| {
            let names: Vec<&str> = Datatype::ALL.iter().map(|kind| kind.name()).collect();
            format!(
                "datatype is {name:?}; expected one of {}, {BYTES}",
                names.join(", ")
            )
        })
    }

    /// The protocol's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Numbers(kind) => kind.name(),
            Self::Bytes => BYTES,
        }
    }
}

impl TensorData {
    pub(crate) fn kind(&self) -> ElementType {
        match self {
            Self::Numbers(elements) => ElementType::Numbers(elements.datatype()),
            Self::Bytes(_) => ElementType::Bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Numbers(elements) => elements.len(),
            Self::Bytes(strings) => strings.len(),
        }
    }

    /// Reads `data` of a request: numbers, booleans, or strings, flat or nested by dimension, the last
    /// dimension innermost.
    pub(crate) fn from_json(kind: ElementType, data: &Value) -> Result<Self, String> {
        let mut flat = Vec::new();
        flatten(data, &mut flat);
        match kind {
            ElementType::Bytes => {
                let strings = flat.into_iter().map(|value| match value {
                    Value::String(text) => Ok(text.clone().into_bytes()),
                    other => Err(wrong(other, kind.name())),
                });
                Ok(Self::Bytes(strings.collect::<Result<_, _>>()?))
            }
            ElementType::Numbers(datatype) => Ok(Self::Numbers(numbers(datatype, &flat)?)),
        }
    }

    /// Reads binary data: little-endian numbers without gaps, one byte for each boolean, and each byte string
    /// after its length in 4 bytes.
    pub(crate) fn from_bytes(kind: ElementType, bytes: &[u8]) -> Result<Self, String> {
        match kind {
            ElementType::Bytes => strings(bytes).map(Self::Bytes),
            ElementType::Numbers(datatype) => {
                from_little_endian(datatype, bytes).map(Self::Numbers)
            }
        }
    }

    /// Writes binary data in the same format.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Numbers(elements) => to_little_endian(elements),
            Self::Bytes(strings) => {
                let mut bytes = Vec::new();
                for string in strings {
                    let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
                    bytes.extend(length.to_le_bytes());
                    bytes.extend(string);
                }
                bytes
            }
        }
    }

    /// Whether JSON can represent the data: NaN and infinity cannot be represented.
    pub(crate) fn fits_json(&self) -> bool {
        match self {
            Self::Numbers(Elements::Bf16(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(Elements::Fp16(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(Elements::Fp32(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(Elements::Fp64(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(_) | Self::Bytes(_) => true,
        }
    }
}

impl Serialize for TensorData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Numbers(elements) => match elements {
                Elements::Bool(numbers) => numbers.serialize(serializer),
                Elements::Uint8(numbers) => numbers.serialize(serializer),
                Elements::Uint16(numbers) => numbers.serialize(serializer),
                Elements::Uint32(numbers) => numbers.serialize(serializer),
                Elements::Uint64(numbers) => numbers.serialize(serializer),
                Elements::Int8(numbers) => numbers.serialize(serializer),
                Elements::Int16(numbers) => numbers.serialize(serializer),
                Elements::Int32(numbers) => numbers.serialize(serializer),
                Elements::Int64(numbers) => numbers.serialize(serializer),
                Elements::Bf16(numbers) => {
                    serializer.collect_seq(numbers.iter().map(|it| it.to_f32()))
                }
                Elements::Fp16(numbers) => {
                    serializer.collect_seq(numbers.iter().map(|it| it.to_f32()))
                }
                Elements::Fp32(numbers) => numbers.serialize(serializer),
                Elements::Fp64(numbers) => numbers.serialize(serializer),
            },
            Self::Bytes(strings) => {
                let mut sequence = serializer.serialize_seq(Some(strings.len()))?;
                for string in strings {
                    sequence.serialize_element(&String::from_utf8_lossy(string))?;
                }
                sequence.end()
            }
        }
    }
}

fn narrow<T: TryFrom<i128>>(numbers: Vec<i128>) -> Option<Vec<T>> {
    numbers.into_iter().map(|it| T::try_from(it).ok()).collect()
}

/// Converts integers to another integer type. Returns `None` if a value does not fit, or if a type is not an
/// integer type.
pub(crate) fn cast(elements: Elements, wanted: Datatype) -> Option<Elements> {
    if elements.datatype() == wanted {
        return Some(elements);
    }
    let numbers: Vec<i128> = match elements {
        Elements::Bool(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Uint8(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Uint16(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Uint32(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Uint64(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Int8(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Int16(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Int32(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Int64(numbers) => numbers.into_iter().map(i128::from).collect(),
        Elements::Bf16(_) | Elements::Fp16(_) | Elements::Fp32(_) | Elements::Fp64(_) => {
            return None;
        }
    };
    Some(match wanted {
        Datatype::Uint8 => Elements::Uint8(narrow(numbers)?),
        Datatype::Uint16 => Elements::Uint16(narrow(numbers)?),
        Datatype::Uint32 => Elements::Uint32(narrow(numbers)?),
        Datatype::Uint64 => Elements::Uint64(narrow(numbers)?),
        Datatype::Int8 => Elements::Int8(narrow(numbers)?),
        Datatype::Int16 => Elements::Int16(narrow(numbers)?),
        Datatype::Int32 => Elements::Int32(narrow(numbers)?),
        Datatype::Int64 => Elements::Int64(narrow(numbers)?),
        Datatype::Bool | Datatype::Bf16 | Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fp32(values: &Value) -> Result<TensorData, String> {
        TensorData::from_json(ElementType::Numbers(Datatype::Fp32), values)
    }

    #[test]
    fn data_is_read_flat_or_nested() {
        let flat = fp32(&json!([1, 2.5, 3, 4])).unwrap();
        assert_eq!(flat, fp32(&json!([[1, 2.5], [3, 4]])).unwrap());
        assert_eq!(
            flat,
            TensorData::Numbers(Elements::Fp32(vec![1.0, 2.5, 3.0, 4.0]))
        );
    }

    #[test]
    fn error_names_value_that_does_not_fit() {
        for (name, data, expected) in [
            ("INT8", json!([128]), "data holds 128; expected INT8"),
            ("UINT64", json!([-1]), "data holds -1; expected UINT64"),
            ("INT64", json!([1.5]), "data holds 1.5; expected INT64"),
            ("BOOL", json!([1]), "data holds 1; expected BOOL"),
            ("FP32", json!([1e300]), "data holds 1e+300; expected FP32"),
            ("FP32", json!(["1"]), "data holds a string; expected FP32"),
            ("BYTES", json!([null]), "data holds null; expected BYTES"),
        ] {
            let kind = ElementType::named(name).unwrap();
            assert_eq!(TensorData::from_json(kind, &data).unwrap_err(), expected);
        }
        assert!(
            ElementType::named("FP8")
                .unwrap_err()
                .contains("FP16, FP32, FP64, BYTES")
        );
    }

    #[test]
    fn integers_are_cast_if_they_fit() {
        let wide = Elements::Int64(vec![1, 2, 300]);
        assert_eq!(
            cast(wide.clone(), Datatype::Int32),
            Some(Elements::Int32(vec![1, 2, 300]))
        );
        assert_eq!(cast(wide.clone(), Datatype::Uint8), None);
        assert_eq!(cast(wide, Datatype::Fp32), None);
    }

    proptest! {
        #[test]
        fn binary_data_round_trips(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let numbers = Datatype::ALL.iter().map(|kind| ElementType::Numbers(*kind));
            for kind in numbers.chain([ElementType::Bytes]) {
                if let Ok(data) = TensorData::from_bytes(kind, &bytes) {
                    prop_assert_eq!(data.to_bytes(), bytes.clone());
                }
            }
        }

        #[test]
        fn numbers_round_trip_as_json_and_binary(
            numbers in prop::collection::vec(-1e6_f32..1e6, 0..20),
        ) {
            let data = TensorData::Numbers(Elements::Fp32(numbers));
            let json = serde_json::to_value(&data).unwrap();
            prop_assert_eq!(&TensorData::from_json(data.kind(), &json).unwrap(), &data);
            prop_assert_eq!(&TensorData::from_bytes(data.kind(), &data.to_bytes()).unwrap(), &data);
        }

        #[test]
        fn strings_round_trip_as_json_and_binary(texts in prop::collection::vec(".*", 0..5)) {
            let data = TensorData::Bytes(texts.into_iter().map(String::into_bytes).collect());
            let json = serde_json::to_value(&data).unwrap();
            prop_assert_eq!(&TensorData::from_json(ElementType::Bytes, &json).unwrap(), &data);
            prop_assert_eq!(&TensorData::from_bytes(ElementType::Bytes, &data.to_bytes()).unwrap(), &data);
        }
    }
}

//! Tensors as they stand in a request or an answer: as JSON, or as raw bytes behind it.

use serde::{Serialize, Serializer, ser::SerializeSeq as _};
use serde_json::Value;

use super::super::predict::kind_of;
use crate::engine::{Datatype, Elements};

/// The protocol's name for strings of bytes, which no graph of ours takes, but the text of a request
/// is.
pub(super) const BYTES: &str = "BYTES";

/// The contents of a tensor of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    /// Numbers, or true and false.
    Numbers(Elements),
    /// Strings of bytes.
    Bytes(Vec<Vec<u8>>),
}

/// What a tensor of the protocol may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Numbers(Datatype),
    Bytes,
}

impl Kind {
    /// The kind of this name.
    pub(super) fn named(name: &str) -> Result<Self, String> {
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
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Numbers(kind) => kind.name(),
            Self::Bytes => BYTES,
        }
    }
}

impl Data {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Numbers(elements) => Kind::Numbers(elements.datatype()),
            Self::Bytes(_) => Kind::Bytes,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Numbers(elements) => elements.len(),
            Self::Bytes(strings) => strings.len(),
        }
    }

    /// Reads `data` of a request: numbers, booleans or strings, in one array or in one array per
    /// dimension, the last dimension innermost.
    pub(super) fn from_json(kind: Kind, data: &Value) -> Result<Self, String> {
        let mut flat = Vec::new();
        flatten(data, &mut flat);
        match kind {
            Kind::Bytes => {
                let strings = flat.into_iter().map(|value| match value {
                    Value::String(text) => Ok(text.clone().into_bytes()),
                    other => Err(wrong(other, kind)),
                });
                Ok(Self::Bytes(strings.collect::<Result<_, _>>()?))
            }
            Kind::Numbers(datatype) => Ok(Self::Numbers(numbers(datatype, &flat)?)),
        }
    }

    /// Reads raw bytes: little-endian numbers without gaps, a byte for each boolean; each string of
    /// bytes behind its length as 4 bytes.
    pub(super) fn from_bytes(kind: Kind, bytes: &[u8]) -> Result<Self, String> {
        match kind {
            Kind::Bytes => strings(bytes).map(Self::Bytes),
            Kind::Numbers(datatype) => from_little_endian(datatype, bytes).map(Self::Numbers),
        }
    }

    /// The same as raw bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
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

    /// Whether JSON can express it: not the floats that are no numbers, or endless.
    pub(super) fn fits_json(&self) -> bool {
        match self {
            Self::Numbers(Elements::Fp16(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(Elements::Fp32(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(Elements::Fp64(numbers)) => numbers.iter().all(|it| it.is_finite()),
            Self::Numbers(_) | Self::Bytes(_) => true,
        }
    }
}

impl Serialize for Data {
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

/// The values in the arrays of `data`, from left to right. The parser bounds their depth.
fn flatten<'a>(data: &'a Value, into: &mut Vec<&'a Value>) {
    match data {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        value => into.push(value),
    }
}

fn wrong(value: &Value, kind: Kind) -> String {
    let given = match value {
        Value::Number(number) => number.to_string(),
        other => kind_of(other).to_owned(),
    };
    format!("data holds {given}; expected {}", kind.name())
}

/// Reads all values by one function.
fn each<T>(
    values: &[&Value],
    read: impl Fn(&Value) -> Option<T>,
    refused: impl Fn(&Value) -> String,
) -> Result<Vec<T>, String> {
    let one = |value: &&Value| read(value).ok_or_else(|| refused(value));
    values.iter().map(one).collect()
}

/// A whole number that fits its kind.
fn whole<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    let number = value.as_i64().map(i128::from);
    let number = number.or_else(|| value.as_u64().map(i128::from));
    T::try_from(number?).ok()
}

/// A float, unless it is so large that it would become endless.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest float is what was asked for; what becomes endless is refused"
)]
fn single(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    number.is_finite().then_some(number)
}

/// The same of 16 bits.
fn half(value: &Value) -> Option<half::f16> {
    let number = half::f16::from_f64(value.as_f64()?);
    number.is_finite().then_some(number)
}

fn numbers(datatype: Datatype, values: &[&Value]) -> Result<Elements, String> {
    let refused = |value: &Value| wrong(value, Kind::Numbers(datatype));
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

fn strings(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut strings = Vec::new();
    while !bytes.is_empty() {
        let cut = || {
            format!(
                "the binary data ends within element {}; expected its length as 4 bytes, and as many bytes",
                strings.len()
            )
        };
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
        let (string, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        strings.push(string.to_vec());
        bytes = rest;
    }
    Ok(strings)
}

fn from_little_endian(datatype: Datatype, bytes: &[u8]) -> Result<Elements, String> {
    if !bytes.len().is_multiple_of(datatype.size()) {
        return Err(format!(
            "the binary data has {} bytes; expected a multiple of {} for {datatype}",
            bytes.len(),
            datatype.size()
        ));
    }
    macro_rules! read {
        ($variant:ident, $number:ty) => {{
            let (chunks, _) = bytes.as_chunks::<{ size_of::<$number>() }>();
            Elements::$variant(
                chunks
                    .iter()
                    .map(|chunk| <$number>::from_le_bytes(*chunk))
                    .collect(),
            )
        }};
    }
    Ok(match datatype {
        Datatype::Bool => {
            let truth = |byte: &u8| match byte {
                0 => Ok(false),
                1 => Ok(true),
                other => Err(format!(
                    "the binary data holds {other}; expected 0 or 1 for BOOL"
                )),
            };
            Elements::Bool(bytes.iter().map(truth).collect::<Result<_, _>>()?)
        }
        Datatype::Uint8 => Elements::Uint8(bytes.to_vec()),
        Datatype::Uint16 => read!(Uint16, u16),
        Datatype::Uint32 => read!(Uint32, u32),
        Datatype::Uint64 => read!(Uint64, u64),
        Datatype::Int8 => read!(Int8, i8),
        Datatype::Int16 => read!(Int16, i16),
        Datatype::Int32 => read!(Int32, i32),
        Datatype::Int64 => read!(Int64, i64),
        Datatype::Fp16 => read!(Fp16, half::f16),
        Datatype::Fp32 => read!(Fp32, f32),
        Datatype::Fp64 => read!(Fp64, f64),
    })
}

fn to_little_endian(elements: &Elements) -> Vec<u8> {
    macro_rules! write {
        ($numbers:expr) => {
            $numbers.iter().flat_map(|it| it.to_le_bytes()).collect()
        };
    }
    match elements {
        Elements::Bool(numbers) => numbers.iter().map(|it| u8::from(*it)).collect(),
        Elements::Uint8(numbers) => numbers.clone(),
        Elements::Uint16(numbers) => write!(numbers),
        Elements::Uint32(numbers) => write!(numbers),
        Elements::Uint64(numbers) => write!(numbers),
        Elements::Int8(numbers) => write!(numbers),
        Elements::Int16(numbers) => write!(numbers),
        Elements::Int32(numbers) => write!(numbers),
        Elements::Int64(numbers) => write!(numbers),
        Elements::Fp16(numbers) => write!(numbers),
        Elements::Fp32(numbers) => write!(numbers),
        Elements::Fp64(numbers) => write!(numbers),
    }
}

fn narrow<T: TryFrom<i128>>(numbers: Vec<i128>) -> Option<Vec<T>> {
    numbers.into_iter().map(|it| T::try_from(it).ok()).collect()
}

/// The same whole numbers of another kind; `None` where one of them does not fit, or where one of
/// the kinds is not of whole numbers.
pub(super) fn cast(elements: Elements, wanted: Datatype) -> Option<Elements> {
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
        Elements::Fp16(_) | Elements::Fp32(_) | Elements::Fp64(_) => return None,
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
        Datatype::Bool | Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fp32(values: &Value) -> Result<Data, String> {
        Data::from_json(Kind::Numbers(Datatype::Fp32), values)
    }

    #[test]
    fn data_may_be_flat_or_nested() {
        let flat = fp32(&json!([1, 2.5, 3, 4])).unwrap();
        assert_eq!(flat, fp32(&json!([[1, 2.5], [3, 4]])).unwrap());
        assert_eq!(
            flat,
            Data::Numbers(Elements::Fp32(vec![1.0, 2.5, 3.0, 4.0]))
        );
    }

    #[test]
    fn what_does_not_fit_its_datatype_is_named() {
        for (name, data, expected) in [
            ("INT8", json!([128]), "data holds 128; expected INT8"),
            ("UINT64", json!([-1]), "data holds -1; expected UINT64"),
            ("INT64", json!([1.5]), "data holds 1.5; expected INT64"),
            ("BOOL", json!([1]), "data holds 1; expected BOOL"),
            ("FP32", json!([1e300]), "data holds 1e+300; expected FP32"),
            ("FP32", json!(["1"]), "data holds a string; expected FP32"),
            ("BYTES", json!([null]), "data holds null; expected BYTES"),
        ] {
            let kind = Kind::named(name).unwrap();
            assert_eq!(Data::from_json(kind, &data).unwrap_err(), expected);
        }
        assert!(
            Kind::named("FP8")
                .unwrap_err()
                .contains("FP16, FP32, FP64, BYTES")
        );
    }

    #[test]
    fn whole_numbers_are_cast_where_they_fit() {
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
        fn any_bytes_are_read_or_refused_and_written_back_as_they_were(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let numbers = Datatype::ALL.iter().map(|kind| Kind::Numbers(*kind));
            for kind in numbers.chain([Kind::Bytes]) {
                if let Ok(data) = Data::from_bytes(kind, &bytes) {
                    prop_assert_eq!(data.to_bytes(), bytes.clone());
                }
            }
        }

        #[test]
        fn numbers_are_the_same_as_json_and_as_bytes(
            numbers in prop::collection::vec(-1e6_f32..1e6, 0..20),
        ) {
            let data = Data::Numbers(Elements::Fp32(numbers));
            let json = serde_json::to_value(&data).unwrap();
            prop_assert_eq!(&Data::from_json(data.kind(), &json).unwrap(), &data);
            prop_assert_eq!(&Data::from_bytes(data.kind(), &data.to_bytes()).unwrap(), &data);
        }

        #[test]
        fn strings_are_the_same_as_json_and_as_bytes(texts in prop::collection::vec(".*", 0..5)) {
            let data = Data::Bytes(texts.into_iter().map(String::into_bytes).collect());
            let json = serde_json::to_value(&data).unwrap();
            prop_assert_eq!(&Data::from_json(Kind::Bytes, &json).unwrap(), &data);
            prop_assert_eq!(&Data::from_bytes(Kind::Bytes, &data.to_bytes()).unwrap(), &data);
        }
    }
}

use crate::backend::tensor::{Datatype, Elements};

pub(crate) fn strings(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut strings = Vec::new();
    while !bytes.is_empty() {
        let cut = || {
            format!(
                "the binary data ends within element {}; expected a length of 4 bytes and that many bytes",
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

pub(crate) fn from_little_endian(datatype: Datatype, bytes: &[u8]) -> Result<Elements, String> {
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
        Datatype::Bf16 => read!(Bf16, half::bf16),
        Datatype::Fp16 => read!(Fp16, half::f16),
        Datatype::Fp32 => read!(Fp32, f32),
        Datatype::Fp64 => read!(Fp64, f64),
    })
}

pub(crate) fn to_little_endian(elements: &Elements) -> Vec<u8> {
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
        Elements::Bf16(numbers) => write!(numbers),
        Elements::Fp16(numbers) => write!(numbers),
        Elements::Fp32(numbers) => write!(numbers),
        Elements::Fp64(numbers) => write!(numbers),
    }
}

use half::{bf16, f16};
use ort::{
    Error as OrtError,
    value::{
        DynValue, DynValueTypeMarker, Outlet, TensorElementType, TensorRef, ValueRef, ValueType,
    },
};

use crate::backend::{
    engine::GraphError,
    onnxruntime::session,
    tensor::{Datatype, Elements, Tensor, TensorSpec},
};

/// A tensor that the library borrows for one forward pass.
pub(crate) type InputRef<'a> = ValueRef<'a, DynValueTypeMarker>;

pub(crate) fn spec_of(outlet: &Outlet) -> Result<TensorSpec, GraphError> {
    let refused = |kind: String| {
        let name = outlet.name();
        session::refused(format!(
            "its tensor {name:?} holds {kind}; expected numbers"
        ))
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(refused(outlet.dtype().to_string()));
    };
    Ok(TensorSpec {
        name: outlet.name().to_owned(),
        datatype: datatype_of(*ty).ok_or_else(|| refused(ty.to_string()))?,
        shape: shape.iter().map(|it| usize::try_from(*it).ok()).collect(),
    })
}

fn datatype_of(kind: TensorElementType) -> Option<Datatype> {
    Some(match kind {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        _ => return None,
    })
}

pub(crate) fn value_of(tensor: &Tensor) -> Result<InputRef<'_>, OrtError> {
    let shape = tensor.shape.as_slice();
    Ok(match &tensor.elements {
        Elements::Bool(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint8(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint32(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Uint64(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int8(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int32(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Int64(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Bf16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Fp16(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Fp32(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
        Elements::Fp64(numbers) => TensorRef::from_array_view((shape, &**numbers))?.into_dyn(),
    })
}

pub(crate) fn tensor_of(value: &DynValue) -> Result<Tensor, OrtError> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(OrtError::new("an output is not a tensor"));
    };
    let elements = match datatype_of(*ty) {
        Some(Datatype::Bool) => Elements::Bool(value.try_extract_tensor::<bool>()?.1.to_vec()),
        Some(Datatype::Uint8) => Elements::Uint8(value.try_extract_tensor::<u8>()?.1.to_vec()),
        Some(Datatype::Uint16) => Elements::Uint16(value.try_extract_tensor::<u16>()?.1.to_vec()),
        Some(Datatype::Uint32) => Elements::Uint32(value.try_extract_tensor::<u32>()?.1.to_vec()),
        Some(Datatype::Uint64) => Elements::Uint64(value.try_extract_tensor::<u64>()?.1.to_vec()),
        Some(Datatype::Int8) => Elements::Int8(value.try_extract_tensor::<i8>()?.1.to_vec()),
        Some(Datatype::Int16) => Elements::Int16(value.try_extract_tensor::<i16>()?.1.to_vec()),
        Some(Datatype::Int32) => Elements::Int32(value.try_extract_tensor::<i32>()?.1.to_vec()),
        Some(Datatype::Int64) => Elements::Int64(value.try_extract_tensor::<i64>()?.1.to_vec()),
        Some(Datatype::Bf16) => Elements::Bf16(value.try_extract_tensor::<bf16>()?.1.to_vec()),
        Some(Datatype::Fp16) => Elements::Fp16(value.try_extract_tensor::<f16>()?.1.to_vec()),
        Some(Datatype::Fp32) => Elements::Fp32(value.try_extract_tensor::<f32>()?.1.to_vec()),
        Some(Datatype::Fp64) => Elements::Fp64(value.try_extract_tensor::<f64>()?.1.to_vec()),
        None => return Err(OrtError::new(format!("an output holds {ty}"))),
    };
    let length = |it: &i64| usize::try_from(*it).unwrap_or(0);
    Ok(Tensor {
        shape: shape.iter().map(length).collect(),
        elements,
    })
}

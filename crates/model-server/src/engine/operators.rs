/// Whether a graph has an operator of this name, as far as the bytes of its `.onnx` file tell.
///
/// The names of operators stand in the file as they are, each behind the tag and the length of the
/// field `op_type` (number 4 of `NodeProto` in onnx.proto). A weight that happens to hold the same
/// bytes would pass for one; both uses of this cost speed then, and no answer.
pub(crate) fn has_operator(model: &[u8], name: &str) -> bool {
    const OP_TYPE: u8 = 0x22;
    let Ok(length) = u8::try_from(name.len()) else {
        return false;
    };
    let field = [&[OP_TYPE, length], name.as_bytes()].concat();
    memchr::memmem::find(model, &field).is_some()
}

/// Whether a model quantizes its activations as it goes: the scale is taken from the whole batch,
/// so a text's answer would depend on its neighbors.
pub(crate) fn quantizes_as_it_goes(model: &[u8]) -> bool {
    const DYNAMIC: [&str; 4] = [
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "QAttention",
    ];
    DYNAMIC.iter().any(|name| has_operator(model, name))
}

/// Whether a model has weights of few bits and calculates with floats.
pub(crate) fn has_quantized_weights_only(model: &[u8]) -> bool {
    has_operator(model, "DequantizeLinear") && !has_operator(model, "QuantizeLinear")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(release: &str) -> Vec<u8> {
        let path = format!(
            "{}/../../models/sentiment/{release}/model.onnx",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read(path).unwrap()
    }

    #[test]
    fn operators_are_found_by_their_whole_name() {
        let second = shipped("v2");
        assert!(has_operator(&second, "DequantizeLinear"));
        assert!(
            !has_operator(&second, "QuantizeLinear"),
            "only a part of it"
        );
        assert!(has_quantized_weights_only(&second) && !quantizes_as_it_goes(&second));
        assert!(!has_quantized_weights_only(&shipped("v1")));
    }

    #[test]
    fn a_node_that_quantizes_as_it_goes_is_noticed() {
        let mut model = b"\x0a\x05input\x12\x06output\x22\x15".to_vec();
        model.extend(b"DynamicQuantizeLinear");
        assert!(quantizes_as_it_goes(&model));
    }
}

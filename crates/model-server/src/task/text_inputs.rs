use crate::backend::{
    engine::GraphError,
    tensor::{Datatype, Elements, Signature, TensorSpec},
};

/// Converts what the server has for an input to the input's type.
pub(super) type Conversion = fn(Vec<i64>) -> Elements;

/// What an input of the graph receives for each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TextInput {
    Ids,
    Mask,
    Types,
    Positions,
}

/// The lengths that a graph fixes; `None` if they depend on the request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FixedLengths {
    /// The texts in each forward pass.
    pub(super) texts: Option<usize>,
    /// The tokens of each text, with padding.
    pub(super) tokens: Option<usize>,
}

/// Returns what each input of a text graph receives, and the lengths that all inputs share.
pub(super) fn text_inputs(
    signature: &Signature,
) -> Result<(Vec<(TextInput, Conversion)>, FixedLengths), GraphError> {
    let mut inputs = Vec::with_capacity(signature.inputs.len());
    let mut fixed = FixedLengths {
        texts: None,
        tokens: None,
    };
    for spec in &signature.inputs {
        let input = match spec.name.as_str() {
            "input_ids" => TextInput::Ids,
            "attention_mask" => TextInput::Mask,
            "token_type_ids" => TextInput::Types,
            "position_ids" => TextInput::Positions,
            other => return Err(GraphError::UnknownInput(other.to_owned())),
        };
        let (texts, tokens) = match spec.shape[..] {
            // The graph does not declare the shape.
            [] => (None, None),
            [texts, tokens] if texts != Some(0) && tokens != Some(0) => (texts, tokens),
            _ => {
                return Err(GraphError::InputShape {
                    name: spec.name.clone(),
                    shape: spec.shape_text(),
                });
            }
        };
        for (fixed, declared) in [(&mut fixed.texts, texts), (&mut fixed.tokens, tokens)] {
            if let Some(declared) = declared
                && *fixed.get_or_insert(declared) != declared
            {
                return Err(GraphError::InputLengths(all_shapes(signature)));
            }
        }
        inputs.push((input, conversion(input, spec)?));
    }
    if inputs.iter().any(|(input, _)| *input == TextInput::Ids) {
        Ok((inputs, fixed))
    } else {
        Err(GraphError::NoInputIds)
    }
}

/// Returns how the numbers for an input become its type. FP16 and BF16 hold 0 and 1, but not every token ID.
#[expect(
    clippy::cast_possible_truncation,
    reason = "token IDs have 32 bits, and no vocabulary has the 2^24 tokens up to which FP32 is exact"
)]
fn conversion(input: TextInput, spec: &TensorSpec) -> Result<Conversion, GraphError> {
    let is_mask = input == TextInput::Mask;
    Ok(match spec.datatype {
        Datatype::Int64 => Elements::Int64,
        Datatype::Int32 => {
            |numbers| Elements::Int32(numbers.into_iter().map(|it| it as i32).collect())
        }
        Datatype::Fp32 => {
            |numbers| Elements::Fp32(numbers.into_iter().map(|it| it as f32).collect())
        }
        Datatype::Fp64 => {
            |numbers| Elements::Fp64(numbers.into_iter().map(|it| it as f64).collect())
        }
        Datatype::Bool if is_mask => {
            |numbers| Elements::Bool(numbers.into_iter().map(|it| it != 0).collect())
        }
        Datatype::Fp16 if is_mask => |numbers| {
            let number = |it: i64| half::f16::from_f32(it as f32);
            Elements::Fp16(numbers.into_iter().map(number).collect())
        },
        Datatype::Bf16 if is_mask => |numbers| {
            let number = |it: i64| half::bf16::from_f32(it as f32);
            Elements::Bf16(numbers.into_iter().map(number).collect())
        },
        other => {
            let expected = if is_mask {
                "INT64, INT32, BOOL, or floats"
            } else {
                "INT64, INT32, FP32, or FP64"
            };
            return Err(GraphError::InputDatatype {
                name: spec.name.clone(),
                datatype: other.name(),
                expected,
            });
        }
    })
}

fn all_shapes(signature: &Signature) -> String {
    let shapes = signature.inputs.iter();
    let shapes = shapes.map(|spec| format!("{} {}", spec.name, spec.shape_text()));
    shapes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[Option<usize>]) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
        }
    }

    fn read(inputs: Vec<TensorSpec>) -> Result<FixedLengths, String> {
        let outputs = Vec::new();
        let read = text_inputs(&Signature { inputs, outputs });
        read.map(|(_, fixed)| fixed)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn inputs_share_their_fixed_lengths() {
        let ids = spec("input_ids", Datatype::Int64, &[None, Some(32)]);
        let mask = spec("attention_mask", Datatype::Bool, &[Some(8), None]);
        let types = spec("token_type_ids", Datatype::Fp32, &[]);
        let fixed = read(vec![ids.clone(), mask, types]).unwrap();
        assert_eq!((fixed.texts, fixed.tokens), (Some(8), Some(32)));
        let other = spec("attention_mask", Datatype::Int64, &[None, Some(16)]);
        assert_eq!(
            read(vec![ids, other]).unwrap_err(),
            "its inputs declare different shapes: input_ids [-1, 32], attention_mask [-1, 16]; expected the same for all"
        );
    }

    #[test]
    fn input_of_another_rank_is_refused() {
        for (shape, text) in [
            (&[None][..], "[-1]"),
            (&[None, None, Some(8)], "[-1, -1, 8]"),
            (&[None, Some(0)], "[-1, 0]"),
        ] {
            let error = read(vec![spec("input_ids", Datatype::Int64, shape)]).unwrap_err();
            let expected =
                format!("its input \"input_ids\" has the shape {text}; expected [texts, tokens]");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn input_of_a_type_without_room_for_token_ids_is_refused() {
        for datatype in [Datatype::Uint8, Datatype::Bool, Datatype::Fp16] {
            let error = read(vec![spec("input_ids", datatype, &[None, None])]).unwrap_err();
            let expected = format!(
                "its input \"input_ids\" takes {datatype}; expected INT64, INT32, FP32, or FP64"
            );
            assert_eq!(error, expected);
        }
        let mask = spec("attention_mask", Datatype::Uint8, &[None, None]);
        let error = read(vec![mask]).unwrap_err();
        assert!(
            error.contains("expected INT64, INT32, BOOL, or floats"),
            "{error}"
        );
    }

    #[test]
    fn graph_without_token_ids_is_refused() {
        let mask = spec("attention_mask", Datatype::Int64, &[None, None]);
        assert_eq!(
            read(vec![mask]).unwrap_err(),
            "it has no input named input_ids"
        );
    }
}

use thiserror::Error;

use crate::{
    backend::{
        engine::GraphError,
        tensor::{Datatype, Elements, Signature, Tensor},
    },
    task::{
        model_config::{Labels, Padding},
        scores::ProblemType,
    },
    tokenizer::text_tokenizer::{TextTokenizer, TokenIds},
};

/// The output that exporters name so, where a graph has several.
pub(crate) const LOGITS: &str = "logits";

/// Which of a text's tokens an input of the graph takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TextInput {
    Ids,
    Mask,
    Types,
    Positions,
}

/// How texts go into a graph and come out of it.
#[derive(Debug)]
pub(crate) struct TextClassifier {
    /// From texts to tokens.
    pub(crate) tokenizer: TextTokenizer,
    /// The names of the logits.
    pub(crate) labels: Labels,
    /// What the logits mean.
    pub(crate) problem: ProblemType,
    pub(super) padding: Padding,
    inputs: Vec<TextInput>,
    logits: usize,
}

/// The model's output has the wrong shape for texts.
#[derive(Debug, Clone, Error, PartialEq)]
#[error(
    "the model gives {given} of the shape {shape:?} for {texts} texts; config.json names {labels} labels, so [{texts}, {labels}] of FP32 was expected"
)]
pub(crate) struct UnexpectedLogits {
    given: Datatype,
    shape: Vec<usize>,
    texts: usize,
    labels: usize,
}

/// The place of the logits among a graph's outputs, and how many there are of each text, where the
/// graph tells.
pub(crate) fn logits_of(signature: &Signature) -> Result<(usize, Option<usize>), GraphError> {
    let outputs = &signature.outputs;
    let named = outputs.iter().position(|output| output.name == LOGITS);
    let place = match (named, outputs.len()) {
        (Some(place), _) => place,
        (None, 1) => 0,
        (None, _) => {
            let all = outputs.iter().map(|output| output.name.clone());
            return Err(GraphError::Outputs(all.collect()));
        }
    };
    Ok((place, outputs[place].shape.last().copied().flatten()))
}

impl TextClassifier {
    /// Finds the places in a graph where a text goes in and its logits come out.
    pub(crate) fn new(
        signature: &Signature,
        tokenizer: TextTokenizer,
        (labels, problem): (Labels, ProblemType),
        padding: Padding,
    ) -> Result<Self, GraphError> {
        let inputs: Vec<TextInput> = signature
            .inputs
            .iter()
            .map(|input| match input.name.as_str() {
                "input_ids" => Ok(TextInput::Ids),
                "attention_mask" => Ok(TextInput::Mask),
                "token_type_ids" => Ok(TextInput::Types),
                "position_ids" => Ok(TextInput::Positions),
                other => Err(GraphError::UnknownInput(other.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        if !inputs.contains(&TextInput::Ids) {
            return Err(GraphError::NoInputIds);
        }
        let (logits, _) = logits_of(signature)?;
        Ok(Self {
            tokenizer,
            labels,
            problem,
            padding,
            inputs,
            logits,
        })
    }

    /// The place of the logits among the graph's outputs.
    pub(crate) fn logits(&self) -> usize {
        self.logits
    }

    /// The graph's inputs for some texts, each filled up to the longest: `texts × longest`.
    pub(crate) fn pack(&self, texts: &[&TokenIds]) -> Vec<Tensor> {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let left = self.tokenizer.pads_left();
        let rows = |numbers_of: &dyn Fn(&TokenIds, &mut Vec<i64>), padding: i64| {
            let mut numbers = Vec::with_capacity(texts.len() * longest);
            for (row, text) in texts.iter().enumerate() {
                if left {
                    numbers.resize((row + 1) * longest - text.ids.len(), padding);
                }
                numbers_of(text, &mut numbers);
                numbers.resize((row + 1) * longest, padding);
            }
            Tensor {
                shape: vec![texts.len(), longest],
                elements: Elements::Int64(numbers),
            }
        };
        let token = self.padding.token.unwrap_or(0);
        let first = i64::try_from(self.padding.first_position).unwrap_or(0);
        self.inputs
            .iter()
            .map(|input| match input {
                TextInput::Ids => rows(&|text, into| into.extend(&text.ids), token),
                TextInput::Mask => {
                    rows(&|text, into| into.resize(into.len() + text.ids.len(), 1), 0)
                }
                TextInput::Types => rows(
                    &|text, into| match &text.types {
                        Some(types) => into.extend(types),
                        None => into.resize(into.len() + text.ids.len(), 0),
                    },
                    0,
                ),
                TextInput::Positions => rows(
                    &|text, into| into.extend((first..).take(text.ids.len())),
                    (first - 1).max(0),
                ),
            })
            .collect()
    }

    /// The logits of each of `texts` texts.
    pub(crate) fn unpack(
        &self,
        logits: Tensor,
        texts: usize,
    ) -> Result<Vec<Vec<f32>>, UnexpectedLogits> {
        let labels = self.labels.len();
        match (logits.elements, logits.shape.as_slice()) {
            (Elements::Fp32(numbers), &[rows, columns]) if rows == texts && columns == labels => {
                Ok(numbers.chunks(labels).map(<[f32]>::to_vec).collect())
            }
            (other, _) => Err(UnexpectedLogits {
                given: other.datatype(),
                shape: logits.shape,
                texts,
                labels,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tensor::TensorSpec;
    use crate::task::model_config::ModelConfig;

    /// A tokenizer of four words.
    fn tokenizer(padding: &str) -> TextTokenizer {
        let file = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": {padding},
            "added_tokens": [], "normalizer": null, "decoder": null, "post_processor": null,
            "pre_tokenizer": {{"type": "Whitespace"}},
            "model": {{"type": "WordLevel", "unk_token": "?",
                "vocab": {{"?": 0, "a": 5, "b": 6, "c": 7}}}}}}"#
        );
        TextTokenizer::parse(file.as_bytes(), 32).unwrap()
    }

    fn packed(padding: &str, config: &str) -> Vec<Vec<i64>> {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: Datatype::Int64,
            shape: vec![None, None],
        };
        let names = [
            "input_ids",
            "attention_mask",
            "token_type_ids",
            "position_ids",
        ];
        let signature = Signature {
            inputs: names.map(spec).into(),
            outputs: vec![spec("logits")],
        };
        let config = ModelConfig::parse(config.as_bytes()).unwrap();
        let classes = config.classes(Some(2)).unwrap();
        let model =
            TextClassifier::new(&signature, tokenizer(padding), classes, config.padding).unwrap();
        let texts = ["a b c", "c"].map(|text| model.tokenizer.tokenize(text).unwrap());
        let tensors = model.pack(&[&texts[0], &texts[1]]);
        let numbers = tensors.into_iter().map(|tensor| match tensor.elements {
            Elements::Int64(numbers) => numbers,
            other => panic!("{other:?}"),
        });
        numbers.collect()
    }

    #[test]
    fn a_shorter_text_is_filled_up_behind() {
        let config = r#"{"model_type": "bert", "pad_token_id": 9}"#;
        let expected = [
            [5, 6, 7, 7, 9, 9],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 1, 2, 0, 0, 0],
        ];
        assert_eq!(packed("null", config), expected);
    }

    #[test]
    fn or_in_front_where_the_tokenizer_says_so_with_positions_as_the_model_counts() {
        let left = r#"{"strategy": "BatchLongest", "direction": "Left",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "?"}"#;
        let config = r#"{"model_type": "roberta", "pad_token_id": 1}"#;
        let expected = [
            [5, 6, 7, 1, 1, 7],
            [1, 1, 1, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [2, 3, 4, 1, 1, 2],
        ];
        assert_eq!(packed(left, config), expected);
    }
}

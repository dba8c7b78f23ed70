use crate::{
    backend::{
        engine::GraphError,
        tensor::{Elements, Signature, Tensor},
    },
    task::{
        model_config::{ModelConfig, Padding},
        text_task::{TextTask, TextTaskError},
        text_tasks,
    },
    tokenizer::text_tokenizer::{TextTokenizer, TokenIds},
};

/// What an input of the graph receives for each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TextInput {
    Ids,
    Mask,
    Types,
    Positions,
}

/// A model that reads texts: turns them into the inputs of its graph. Its task reads the output.
#[derive(Debug)]
pub(crate) struct TextModel {
    /// From texts to tokens.
    pub(crate) tokenizer: TextTokenizer,
    /// What it makes of the texts.
    pub(crate) task: Box<dyn TextTask>,
    pub(super) padding: Padding,
    inputs: Vec<TextInput>,
}

impl TextModel {
    /// Matches the inputs and outputs of a graph.
    pub(crate) fn new(
        signature: &Signature,
        tokenizer: TextTokenizer,
        config: &ModelConfig,
    ) -> Result<Self, TextTaskError> {
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
            return Err(GraphError::NoInputIds.into());
        }
        Ok(Self {
            tokenizer,
            task: text_tasks::build(config, signature)?,
            padding: config.padding,
            inputs,
        })
    }

    /// Returns the inputs of the graph for a batch, padded to the longest text: `texts × longest`.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tensor::{Datatype, TensorSpec};

    /// A tokenizer with four words.
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
        let model = TextModel::new(&signature, tokenizer(padding), &config).unwrap();
        let texts = ["a b c", "c"].map(|text| model.tokenizer.tokenize(text).unwrap());
        let tensors = model.pack(&[&texts[0], &texts[1]]);
        let numbers = tensors.into_iter().map(|tensor| match tensor.elements {
            Elements::Int64(numbers) => numbers,
            other => panic!("{other:?}"),
        });
        numbers.collect()
    }

    #[test]
    fn shorter_text_is_padded_on_the_right() {
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
    fn shorter_text_is_padded_on_the_left_if_the_tokenizer_says_so() {
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

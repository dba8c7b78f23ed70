//! What a release knows beside its graph: how texts become its inputs, and what its outputs mean.

use thiserror::Error;

use crate::{
    engine::{Datatype, Elements, Engine, GraphError, Signature, Spread, Tensor, TensorSpec},
    text::{Filling, Labels, Problem, TextTokenizer, TokenIds},
};

/// The output that exporters name so, where a graph has several.
const LOGITS: &str = "logits";

/// A text that any classifier can read, for the first forward passes: about as long as most.
const WARM_UP_TEXT: &str = "The first text is never the fastest, and so this one has twenty words that no client has to wait for.";

/// Which of a text's tokens an input of the graph takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TextInput {
    Ids,
    Mask,
    Types,
    Positions,
}

/// How texts go into a graph and come out of it.
#[derive(Debug)]
pub(crate) struct TextModel {
    /// From texts to tokens.
    pub(crate) tokenizer: TextTokenizer,
    /// The names of the logits.
    pub(crate) labels: Labels,
    /// What the logits mean.
    pub(crate) problem: Problem,
    filling: Filling,
    inputs: Vec<TextInput>,
    logits: usize,
}

/// What a release can answer.
#[derive(Debug)]
pub(crate) enum Task {
    /// Texts, and tensors for whoever has tokenized them already.
    Text(Box<TextModel>),
    /// Tensors only.
    Tensors,
}

impl Task {
    /// Whether a first pass may fail though nothing is wrong: the lengths of some dimensions are known
    /// to clients only, and zeros of length 1 were a guess.
    pub(crate) fn may_refuse_a_guess(&self, signature: &Signature) -> bool {
        let unknown = |input: &TensorSpec| input.shape.iter().any(Option::is_none);
        matches!(self, Self::Tensors) && signature.inputs.iter().any(unknown)
    }

    /// Whether texts of different lengths can share a forward pass.
    pub(crate) fn can_fill_up(&self) -> bool {
        match self {
            Self::Text(model) => model.filling.token.is_some(),
            Self::Tensors => true,
        }
    }

    /// Takes `proof` through the model, and tells what is wrong with the answer, if anything is.
    /// `outputs` are the places of all of the graph's outputs.
    pub(crate) fn prove(
        &self,
        engine: &mut dyn Engine,
        proof: &[Tensor],
        outputs: &[usize],
        spread: Spread,
    ) -> Result<(), String> {
        let Self::Text(model) = self else {
            let outputs = engine.run(proof, outputs, spread);
            return outputs.map(drop).map_err(|error| error.to_string());
        };
        let outputs = engine.run(proof, &[model.logits()], spread);
        let mut outputs = outputs.map_err(|error| error.to_string())?;
        let logits = outputs.pop().ok_or("no logits")?;
        let rows = model.unpack(logits, 1).map_err(|error| error.to_string())?;
        let probabilities = model.problem.probabilities(&rows[0]);
        probabilities.map(drop).map_err(|error| error.to_string())
    }
}

/// The model's answer has the wrong shape for texts.
#[derive(Debug, Clone, Error, PartialEq)]
#[error(
    "the model gives {given} of the shape {shape:?} for {texts} texts; config.json names {labels} labels, so [{texts}, {labels}] of FP32 was expected"
)]
pub(crate) struct LogitsShape {
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

impl TextModel {
    /// Finds the places in a graph where a text goes in and its logits come out.
    pub(crate) fn new(
        signature: &Signature,
        tokenizer: TextTokenizer,
        (labels, problem): (Labels, Problem),
        filling: Filling,
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
            filling,
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
        let left = self.tokenizer.fills_left();
        let rows = |numbers_of: &dyn Fn(&TokenIds, &mut Vec<i64>), filling: i64| {
            let mut numbers = Vec::with_capacity(texts.len() * longest);
            for (row, text) in texts.iter().enumerate() {
                if left {
                    numbers.resize((row + 1) * longest - text.ids.len(), filling);
                }
                numbers_of(text, &mut numbers);
                numbers.resize((row + 1) * longest, filling);
            }
            Tensor {
                shape: vec![texts.len(), longest],
                elements: Elements::Int64(numbers),
            }
        };
        let token = self.filling.token.unwrap_or(0);
        let first = i64::try_from(self.filling.first_position).unwrap_or(0);
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
    ) -> Result<Vec<Vec<f32>>, LogitsShape> {
        let labels = self.labels.len();
        match (logits.elements, logits.shape.as_slice()) {
            (Elements::Fp32(numbers), &[rows, columns]) if rows == texts && columns == labels => {
                Ok(numbers.chunks(labels).map(<[f32]>::to_vec).collect())
            }
            (other, _) => Err(LogitsShape {
                given: other.datatype(),
                shape: logits.shape,
                texts,
                labels,
            }),
        }
    }
}

/// Inputs for a first forward pass.
pub(crate) fn warm_up_inputs(task: &Task, signature: &Signature) -> Result<Vec<Tensor>, String> {
    match task {
        Task::Text(model) => {
            let tokens = model.tokenizer.tokenize(WARM_UP_TEXT);
            Ok(model.pack(&[&tokens.map_err(|error| error.to_string())?]))
        }
        Task::Tensors => Ok(signature
            .inputs
            .iter()
            .map(|input| {
                let shape: Vec<usize> = input.shape.iter().map(|it| it.unwrap_or(1)).collect();
                Tensor {
                    elements: input.datatype.zeros(shape.iter().product()),
                    shape,
                }
            })
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::ModelConfig;

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
            TextModel::new(&signature, tokenizer(padding), classes, config.filling).unwrap();
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

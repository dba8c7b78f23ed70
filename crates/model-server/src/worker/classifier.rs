use thiserror::Error;

use crate::{
    engine::{Engine, EngineError},
    text::{Labels, NonFinite, TextError, TextTokenizer, most_likely},
};

/// A text that any classifier can read, for the first forward pass.
const WARM_UP_TEXT: &str = "The first text is never the fastest.";

/// The answer for one text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Classification {
    /// The label of the most likely class.
    pub(crate) label: String,
    /// Its softmax probability, above 0 and at most 1.
    pub(crate) confidence: f32,
}

/// Why a text got no answer.
#[derive(Debug, Error)]
pub(crate) enum ClassifyError {
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Logits(#[from] NonFinite),
    #[error("the model gives {logits} logits; config.json names {labels} labels")]
    LabelCount { logits: usize, labels: usize },
    #[error("the inference engine panicked: {0}")]
    Panicked(String),
}

/// What a release knows about text, shared by all workers. The engine is each worker's own.
#[derive(Debug)]
pub(crate) struct Classifier {
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) labels: Labels,
}

impl Classifier {
    /// Answers one text with the help of `engine`.
    pub(crate) fn classify(
        &self,
        engine: &mut impl Engine,
        text: &str,
    ) -> Result<Classification, ClassifyError> {
        let tokens = self.tokenizer.tokenize(text)?;
        let logits = engine.infer(tokens)?;
        if logits.len() != self.labels.len() {
            return Err(self.label_count(&logits));
        }
        let choice = most_likely(&logits)?;
        let label = self.labels.get(choice.class);
        Ok(Classification {
            label: label.ok_or_else(|| self.label_count(&logits))?.to_owned(),
            confidence: choice.probability,
        })
    }

    /// Answers a text of no interest. It shows that the parts of a release fit together, and
    /// makes the first client wait no longer than the others.
    pub(crate) fn warm_up(&self, engine: &mut impl Engine) -> Result<(), ClassifyError> {
        self.classify(engine, WARM_UP_TEXT).map(drop)
    }

    fn label_count(&self, logits: &[f32]) -> ClassifyError {
        ClassifyError::LabelCount {
            logits: logits.len(),
            labels: self.labels.len(),
        }
    }
}

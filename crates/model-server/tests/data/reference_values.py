"""Writes the shipped releases' token IDs by tokenizers, and their logits by onnxruntime."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
from texts import TEXTS

DATA = Path("crates/model-server/tests/data")
MODELS = Path("models/sentiment")
MAX_TOKENS = 128


def load_tokenizer(release: str) -> tokenizers.Tokenizer:
    """Loads the release's tokenizer with truncation and without padding."""
    tokenizer = tokenizers.Tokenizer.from_file(str(MODELS / release / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def compute_logits(release: str, texts: list[str]) -> list[list[float]]:
    """Computes the logits of each text in its own forward pass."""
    tokenizer = load_tokenizer(release)
    options = onnxruntime.SessionOptions()
    # Higher levels compute with 8 bits even if only the weights have 8 bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        str(MODELS / release / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        tensors = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        (logits,) = session.run(
            ["logits"], {it.name: tensors[it.name] for it in session.get_inputs()}
        )
        rows.append([round(float(number), 5) for number in logits[0]])
    return rows


def write_cases(name: str, content: dict) -> None:
    """Writes one case per line, so that diffs are readable."""
    text = json.dumps(content, separators=(",", ":"))
    text = text.replace("},{", "},\n{").replace("],[", "],\n[")
    (DATA / name).write_text(text + "\n")


releases = ("v1", "v2")
golden = [json.loads(line) for line in (MODELS / "golden.jsonl").read_text().splitlines()]
cases = [
    {"release": release, "text": text, "ids": load_tokenizer(release).encode(text).ids}
    for release in releases
    for text in TEXTS
]
write_cases("token_ids.json", {"tokenizers": tokenizers.__version__, "cases": cases})
texts = [line["input"]["text"] for line in golden]
logits = {release: compute_logits(release, texts) for release in releases}
write_cases("golden_logits.json", {"onnxruntime": onnxruntime.__version__, "logits": logits})

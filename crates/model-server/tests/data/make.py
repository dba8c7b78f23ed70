"""Writes what Python's tokenizers and onnxruntime say of the shipped releases."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
from texts import TEXTS

HERE = Path("crates/model-server/tests/data")
MODELS = Path("models/sentiment")
MAX_TOKENS = 128

def tokenizer_of(release: str) -> tokenizers.Tokenizer:
    """The release's tokenizer, cutting at its limit and padding nothing."""
    tokenizer = tokenizers.Tokenizer.from_file(str(MODELS / release / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def logits_of(release: str, texts: list[str]) -> list[list[float]]:
    """The logits of each text, alone in its forward pass."""
    tokenizer = tokenizer_of(release)
    options = onnxruntime.SessionOptions()
    # More would calculate with 8 bits where only the weights have 8 bits.
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
            ["logits"], {given.name: tensors[given.name] for given in session.get_inputs()}
        )
        rows.append([round(float(number), 5) for number in logits[0]])
    return rows


def write(name: str, content: dict) -> None:
    """One case a line, so that changes can be read."""
    text = json.dumps(content, separators=(",", ":"))
    text = text.replace("},{", "},\n{").replace("],[", "],\n[")
    (HERE / name).write_text(text + "\n")


releases = ("v1", "v2")
golden = [json.loads(line) for line in (MODELS / "golden.jsonl").read_text().splitlines()]
cases = [
    {"release": release, "text": text, "ids": tokenizer_of(release).encode(text).ids}
    for release in releases
    for text in TEXTS
]
write("token_ids.json", {"tokenizers": tokenizers.__version__, "cases": cases})
texts = [line["input"]["text"] for line in golden]
logits = {release: logits_of(release, texts) for release in releases}
write("golden_logits.json", {"onnxruntime": onnxruntime.__version__, "logits": logits})

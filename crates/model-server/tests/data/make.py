"""Writes what Python's tokenizers and onnxruntime say of the shipped releases."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

HERE = Path("crates/model-server/tests/data")
MODELS = Path("models/sentiment")
MAX_TOKENS = 128
TEXTS = [
    "A fine film.",
    "  spaced   out\ttext\nhere  ",
    "na\xefve caf\xe9 r\xe9sum\xe9 \xc0\xc9\xce\xd5\xdc \xdf \ufb01",
    "Stra\xdfe STRASSE \u0130stanbul \u015e\u011e",
    "e\u0301e\u0300 combining",
    "\u6211\u559c\u6b22\u8fd9\u90e8\u7535\u5f71 but \u65e5\u672c\u8a9e\u3082",
    "\ud55c\uad6d\uc5b4 \uc601\ud654",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u03a9\u03c1\u03b1\u03af\u03bf",
    "\u0e44\u0e17\u0e22 \u0905\u091a\u094d\u091b\u093e",
    "\U0001f44d\U0001f3fd great \U0001f3ac\U0001f3ac film \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466!",
    "[CLS] hi [SEP] [MASK] [PAD] [UNK]",
    "a\x00b\u200bc\xadd\ufeffe",
    "don't stop...!!! (really?) $5.00 #tag @me",
    "\u2177 \xb2 \xbd \u338f \u2122 \u20ac",
    "x" * 150,
    "supercalifragilisticexpialidocious unbelievableness",
    "good film w\u00f6rld \u6f22 " * 80,
    "!" * 200,
    "\u2028line\u2029paragraph\xa0nbsp",
    "MiXeD CaSe ALLCAPS camelCase snake_case kebab-case",
    "1234567890 3.14159 1,000,000 10:30 2026-11-23",
    "http://example.org/a?b=c&d=e user@example.org",
    "\U0001f468\U0001f3fd\u200d\U0001f52c science",
    "\u1f48\u0394\u03a5\u03a3\u03a3\u0395\u038e\u03a3 \u1f40\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2",
    "\ufdfa \ufb00 \u01c5 \u0149",
]


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

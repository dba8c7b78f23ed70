"""Measure a release directory with the files that are served: tokenizer.json and model.onnx."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from data import LABELS, Sentence

# Longer rows add floats in another order, which changes the last digits.
TOLERANCE = 1e-4


class Release:
    """A model loaded from its release directory."""

    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "config.json").read_text())
        self.pad_id = config["pad_token_id"]
        self.max_tokens = config["max_position_embeddings"]
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def logits(self, texts: list[str], extra_padding: int = 0) -> np.ndarray:
        """Return the logits of a batch, padded to its longest text plus `extra_padding`."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        length = min(max(map(len, rows)) + extra_padding, self.max_tokens)
        shape = (len(rows), length)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        (logits,) = self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        return logits

    def probabilities(self, text: str) -> dict[str, float]:
        exponents = np.exp(self.logits([text])[0].astype(np.float64))
        return dict(zip(LABELS, exponents / exponents.sum(), strict=True))


def accuracy(release: Release, sentences: list[Sentence], batch: int = 16) -> dict:
    """Return accuracy and number of sentences, overall and per source."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(sentences), batch):
        group = sentences[start : start + batch]
        predicted = release.logits([sentence.text for sentence in group]).argmax(axis=1)
        for sentence, label in zip(group, predicted, strict=True):
            for key in ("overall", sentence.source):
                hits[key].append(bool(label == sentence.label))
    return {
        key: {"accuracy": sum(values) / len(values), "sentences": len(values)}
        for key, values in sorted(hits.items(), key=lambda item: (item[0] != "overall", item[0]))
    }


def check_batching(release: Release, sentences: list[Sentence], batch: int = 16) -> float:
    """Return the largest difference of logits between a text alone, in a batch, and with padding.

    Fails if it exceeds the tolerance.
    """
    worst = 0.0
    texts = [sentence.text for sentence in sentences] + ["", "word " * 500]
    for start in range(0, len(texts), batch):
        group = texts[start : start + batch]
        alone = np.concatenate([release.logits([text]) for text in group])
        for extra in (0, 7):
            difference = np.abs(release.logits(group, extra) - alone).max()
            worst = max(worst, float(difference))
    if worst > TOLERANCE:
        raise SystemExit(f"padding or batch neighbors change logits by {worst}")
    return worst

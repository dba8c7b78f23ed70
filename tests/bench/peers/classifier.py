"""The classifier that all peers share: tokenize, run the graph, softmax."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Classifier:
    """A release in this project's layout, on ONNX Runtime with `threads` threads per pass."""

    def __init__(self, threads: int):
        folder = Path(os.environ["MODEL_DIRECTORY"])
        config = json.loads((folder / "config.json").read_text())
        names = config["id2label"]
        self.labels = [names[str(number)] for number in range(len(names))]
        self.version = folder.name
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(config.get("max_position_embeddings", 512))
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if os.environ.get("SPINNING") == "0":
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        # The first pass is slow, so it runs before the server accepts requests.
        self.classify(["The first text is never the fastest."])

    def classify(self, texts: list[str]) -> list[dict]:
        """Returns a prediction for each text. One padded forward pass runs all of them."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (logits,) = self.session.run(["logits"], {name: tensors[name] for name in self.inputs})
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        best = probabilities.argmax(axis=1)
        return [
            {
                "prediction": self.labels[label],
                "confidence": float(row[label]),
                "model_version": self.version,
            }
            for row, label in zip(probabilities, best, strict=True)
        ]

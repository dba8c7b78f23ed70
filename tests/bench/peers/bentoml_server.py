"""A BentoML server with adaptive batching."""

import os

import bentoml
from classifier import Classifier


@bentoml.service(
    workers=int(os.environ["PROCESSES"]),
    traffic={"timeout": 120, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Predictor:
    def __init__(self) -> None:
        self.classifier = Classifier(threads=int(os.environ["THREADS"]))

    @bentoml.api(
        route="/predict",
        batchable=True,
        batch_dim=0,
        max_batch_size=int(os.environ["BATCH"]),
        max_latency_ms=1000,
    )
    def predict(self, text: list[str]) -> list[dict]:
        return self.classifier.classify(text)

"""A LitServe server with its own batching."""

import os

import litserve
from classifier import Classifier


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier(threads=int(os.environ["THREADS"]))

    def decode_request(self, request: dict) -> str:
        return request["text"]

    def predict(self, texts: list[str] | str) -> list[dict] | dict:
        if isinstance(texts, str):
            return self.classifier.classify([texts])[0]
        return self.classifier.classify(list(texts))

    def encode_response(self, answer: dict) -> dict:
        return answer


if __name__ == "__main__":
    api = Api(
        max_batch_size=int(os.environ["BATCH"]),
        batch_timeout=int(os.environ["WAIT_MS"]) / 1000,
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ["PROCESSES"]),
        timeout=120,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        generate_client_file=False,
        log_level="error",
        access_log=False,
    )

"""A MOSEC server with dynamic batching: it runs a batch when it is full, or after the wait."""

import os

from classifier import Classifier
from mosec import Server, Worker


class Inference(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(threads=int(os.environ["THREADS"]))

    def forward(self, data: list[dict] | dict) -> list[dict] | dict:
        if isinstance(data, dict):
            return self.classifier.classify([data["text"]])[0]
        return self.classifier.classify([item["text"] for item in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Inference,
        num=int(os.environ["PROCESSES"]),
        max_batch_size=int(os.environ["BATCH"]),
        max_wait_time=int(os.environ["WAIT_MS"]),
    )
    server.run()

"""A FastAPI server that judges reviews. A release is a file of words and their weights.

It shows what the deployer makes use of: the server answers its health check while it loads, says how far it is, and reports
version, uptime, and counters when it is ready.
"""

import json
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

VERSION = os.environ["MODEL_VERSION"]
# MODELS names another directory of releases.
MODELS = Path(os.environ.get("MODELS") or Path(__file__).parent / "models")
started = time.monotonic()
weights: dict[str, float] = {}
state = {"phase": "loading", "progress": 0.0}
counts = {"requests": 0, "errors": 0}


def load() -> None:
    """Reads the release. Its first line says how many lines follow."""
    try:
        with (MODELS / VERSION / "words.jsonl").open() as lines:
            total = json.loads(next(lines))["words"]
            for number, line in enumerate(lines, 1):
                entry = json.loads(line)
                weights[entry["word"]] = entry["weight"]
                state["progress"] = number / total
                print(f"loaded {number} of {total} words", flush=True)
        state["phase"] = "ready"
    except (OSError, ValueError, KeyError, StopIteration) as error:
        # A server that cannot load its release must end: then the deployer refuses the release at once.
        print(f"cannot load release {VERSION}: {error!r}", flush=True)
        os._exit(1)


app = FastAPI()
# In a thread, so that the server answers its health check meanwhile.
threading.Thread(target=load, daemon=True).start()


class Review(BaseModel):
    text: str


@app.middleware("http")
async def count_requests(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    if request.method == "POST":
        counts["requests"] += 1
        counts["errors"] += response.status_code >= 500
    return response


@app.get("/health")
def health(response: Response) -> dict:
    if state["phase"] != "ready":
        response.status_code = 503
        return state
    return {
        "model_version": VERSION,
        "uptime_seconds": time.monotonic() - started,
        "request_count": counts["requests"],
        "error_count": counts["errors"],
    }


@app.post("/predict")
def predict(review: Review) -> dict:
    if state["phase"] != "ready":
        raise HTTPException(503, "loading the release")
    words = review.text.lower().replace(".", " ").replace(",", " ").split()
    score = sum(weights.get(word, 0.0) for word in words)
    positive = 1 / (1 + math.exp(-score))
    return {
        "prediction": "positive" if positive >= 0.5 else "negative",
        "confidence": max(positive, 1 - positive),
        "model_version": VERSION,
    }

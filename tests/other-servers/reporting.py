"""A FastAPI server that reports its version, its uptime, and how many requests failed with its health."""

import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from faults import VERSION, Faults, classify
from pydantic import BaseModel

app = FastAPI()
# The middleware that is added first is the innermost one: requests that a fault answers are counted.
app.add_middleware(Faults)
started = time.monotonic()
counts = {"requests": 0, "errors": 0}


class Text(BaseModel):
    text: str


@app.middleware("http")
async def count_requests(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    counts["requests"] += 1
    counts["errors"] += response.status_code >= 500
    return response


@app.get("/health")
def health() -> dict:
    requests, errors = counts["requests"], counts["errors"]
    return {
        "status": "healthy",
        "model_version": VERSION,
        "uptime_seconds": time.monotonic() - started,
        "request_count": requests,
        "error_rate": errors / requests if requests else 0.0,
    }


@app.post("/predict")
def predict(body: Text) -> dict:
    prediction, confidence = classify(body.text)
    return {"prediction": prediction, "confidence": confidence, "model_version": VERSION}

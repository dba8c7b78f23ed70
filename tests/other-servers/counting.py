"""The server of reporting.py, which also reports how many errors it counted.

Uptime and counters are those of one process, so with several workers they differ from answer to answer.
"""

import reporting
from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
def health() -> dict:
    return reporting.health() | {"error_count": reporting.counts["errors"]}


app.mount("/", reporting.app)

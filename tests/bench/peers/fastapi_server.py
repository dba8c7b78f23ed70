"""A FastAPI server with a plain handler, which runs in the framework's thread pool."""

import os

from classifier import Classifier
from fastapi import FastAPI
from pydantic import BaseModel

# One worker uses all cores for one pass. Several workers share the cores.
classifier = Classifier(threads=int(os.environ["THREADS"]))
app = FastAPI()


class Text(BaseModel):
    text: str


@app.get("/health")
def health() -> dict:
    return {"status": "healthy"}


@app.post("/predict")
def predict(body: Text) -> dict:
    return classifier.classify([body.text])[0]

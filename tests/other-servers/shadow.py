"""A FastAPI server whose clients use the path /shadow."""

from fastapi import FastAPI
from faults import VERSION, Faults, classify
from pydantic import BaseModel

app = FastAPI()
app.add_middleware(Faults)


class Text(BaseModel):
    text: str


@app.get("/health")
def health() -> dict:
    return {"model_version": VERSION}


@app.post("/shadow")
def shadow(body: Text) -> dict:
    prediction, confidence = classify(body.text)
    return {"prediction": prediction, "confidence": confidence}

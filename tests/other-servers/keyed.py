"""A FastAPI server that refuses predictions without an API key that it knows."""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from faults import VERSION, Faults, classify
from pydantic import BaseModel

DEPLOYER, CLIENTS = "key-of-the-deployer", "key-of-the-clients"
# Two releases forget keys.
KNOWN = {"forgets-deployer": {CLIENTS}, "forgets-clients": {DEPLOYER}}.get(
    VERSION, {DEPLOYER, CLIENTS}
)

app = FastAPI()
app.add_middleware(Faults)


class Text(BaseModel):
    text: str


def check_key(key: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> None:
    if key.credentials not in KNOWN:
        raise HTTPException(401, "unknown API key")


@app.get("/health")
def health() -> dict:
    return {"model_version": VERSION}


@app.post("/predict", dependencies=[Depends(check_key)])
def predict(body: Text) -> dict:
    prediction, confidence = classify(body.text)
    return {"prediction": prediction, "confidence": confidence, "model_version": VERSION}

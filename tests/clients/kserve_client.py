"""Tests the Open Inference Protocol of a running server with KServe's client.

Usage: kserve_client.py URL MODEL      for example: kserve_client.py http://localhost:8081 sentiment
"""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

TEXTS = ["A wonderful film, I love it.", "What a terrible waste of time."]
LABELS = ["positive", "negative"]


def request(model, binary, parameters=None, outputs=None):
    tensor = InferInput("text", [len(TEXTS)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in TEXTS], np.object_), binary_data=binary)
    return InferRequest(model, [tensor], request_id="7", parameters=parameters, request_outputs=outputs)


def labels(response):
    values = response.get_output_by_name("label").as_numpy()
    return [label.decode() if isinstance(label, bytes) else label for label in values]


async def main(url, model):
    # The client joins paths to the base with and without a slash.
    for base in (url, f"{url}/"):
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            assert await client.is_server_live(base) is True
            assert await client.is_server_ready(base) is True
            assert await client.is_model_ready(base, model) is True
            assert await client.is_model_ready(base, "other") is False
            for binary in (False, True):
                for parameters in (None, {"unknown": 1}, {"binary_data_output": binary}):
                    response = await client.infer(base, request(model, binary, parameters), model_name=model)
                    assert response.id == "7" and response.model_name == model, response
                    assert labels(response) == LABELS, response
                outputs = [RequestedOutput("logits", {"binary_data": binary}), RequestedOutput("label")]
                response = await client.infer(base, request(model, binary, outputs=outputs), model_name=model)
                assert response.get_output_by_name("logits").as_numpy().shape == (len(TEXTS), 2), response
                assert labels(response) == LABELS, response
            plain = {
                "id": None,
                "parameters": None,
                "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": TEXTS[:1], "parameters": None}],
            }
            assert labels(await client.infer(base, plain, model_name=model)) == LABELS[:1]
            try:
                await client.infer(base, {"inputs": []}, model_name="other")
            except httpx.HTTPStatusError as error:
                assert "is not served here" in str(error), error
            else:
                raise AssertionError("the server accepted a request for another model")
    print("Open Inference Protocol: KServe's client found no error")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Calls every operation of a running server with the client that openapi-python-client made of its OpenAPI document.

Each answer must have status 200 and the type that the document gives it.

Usage: generated.py URL MODEL VERSION DIRECTORY
   DIRECTORY   the directory that holds the generated package `client`
"""

import importlib
import io
import json
import pkgutil
import sys

import numpy as np

MODULES = {}


def load(directory):
    """Imports the modules of the generated client, one for each operation, by their names."""
    sys.path.insert(0, directory)
    api = importlib.import_module("client.api")
    for module in pkgutil.walk_packages(api.__path__, "client.api."):
        if not module.ispkg:
            MODULES[module.name.rsplit(".", 1)[1]] = importlib.import_module(module.name)


def binary_request(models, types):
    """Returns the arguments for a request with binary data."""
    text = b"a fine film"
    data = np.uint32(len(text)).tobytes() + text
    tensor = models.RequestInput(name="text", shape=[1], datatype="BYTES")
    tensor.parameters = models.RequestInputParametersType0.from_dict({"binary_data_size": len(data)})
    head = json.dumps(models.InferRequest(inputs=[tensor]).to_dict()).encode()
    body = types.File(payload=io.BytesIO(head + data), mime_type="application/octet-stream")
    return {"body": body, "inference_header_content_length": len(head)}


def main(url, model, version, directory):
    load(directory)
    client = importlib.import_module("client")
    models = importlib.import_module("client.models")
    types = importlib.import_module("client.types")

    text = models.RequestInput(name="text", shape=[1], datatype="BYTES", data=["a fine film"])
    logits = {"body": models.InferRequest(inputs=[text], id="7", outputs=[models.RequestOutput(name="logits")])}

    def infer(names):
        bodies = [{"body": models.InferRequest(inputs=[text])}, logits, binary_request(models, types)]
        return [(models.InferResponse, {**names, **body}) for body in bodies]

    # For each operation: its answer's type, and the arguments of each call.
    one, several = models.PredictRequest(text="a fine film", top_k=2), models.PredictRequest(texts=["fine", " "])
    of_model, of_version = {"model": model}, {"model": model, "version": version}
    calls = {
        "predict": [
            (models.PredictResponseLabelAnswer, {"body": one}),
            (models.BatchResponse, {"body": several}),
        ],
        "infer": infer(of_model),
        "infer_version": infer(of_version),
        "model": [(models.ModelMetadata, of_model)],
        "model_version": [(models.ModelMetadata, of_version)],
        "model_ready": [(models.ModelReady, of_model)],
        "model_ready_version": [(models.ModelReady, of_version)],
        "v2_server": [(models.ServerMetadata, {})],
        "v2_live": [(models.ServerLive, {})],
        "v2_ready": [(models.ServerReady, {})],
        "health": [(models.Healthy, {})],
        "live": [(models.ProbeStatus, {})],
        "ready": [(models.ProbeStatus, {})],
        "started": [(models.ProbeStatus, {})],
        "metrics": [(str, {})],
        "page": [(str, {})],
        "openapi": [(object, {})],
    }
    assert set(calls) == set(MODULES), set(calls) ^ set(MODULES)
    count = 0
    with client.Client(base_url=url, raise_on_unexpected_status=True) as connection:
        for name, expected in calls.items():
            for kind, arguments in expected:
                response = MODULES[name].sync_detailed(client=connection, **arguments)
                assert response.status_code == 200, (name, response)
                assert response.parsed is not None and isinstance(response.parsed, kind), (name, response)
                count += 1
        label = MODULES["predict"].sync(client=connection, body=one)
        assert label.prediction == "positive" and len(label.scores) == 2 and label.truncated is False, label
        outputs = MODULES["infer"].sync(client=connection, **of_model, **logits).outputs
        assert [output.name for output in outputs] == ["logits"] and len(outputs[0].data) == 2, outputs
    print(f"openapi-python-client: {len(calls)} operations answered {count} typed calls")


if __name__ == "__main__":
    main(*sys.argv[1:])

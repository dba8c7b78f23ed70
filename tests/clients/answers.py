"""Validates real requests and their answers against the OpenAPI document of a running server.

Each body must be valid in JSON Schema, each status and content type must be in the document, and so must each header whose
name begins with x-model, x-predicted, or inference. Every operation is called.

Usage: answers.py URL MODEL VERSION
"""

import json
import sys
import urllib.error
import urllib.request

import numpy as np
from jsonschema import Draft202012Validator

TEXT = {"name": "text", "shape": [1], "datatype": "BYTES"}
BINARY = "application/octet-stream"


def infer_requests(graph_inputs):
    """Returns the bodies of requests for /infer, with the lengths of their JSON if binary data follows it."""
    text, nothing = {**TEXT, "data": ["a fine film"]}, {"parameters": None, "id": None, "outputs": None}
    tokens = [{"name": name, "shape": [1, 2], "datatype": "INT64", "data": [[1, 1]]} for name in graph_inputs]
    for body in (
        {"inputs": [text]},
        {"inputs": [{**text, "parameters": None}], **nothing},
        {"inputs": [text], "id": "7", "outputs": [{"name": "logits"}], "parameters": {"unknown": [1]}},
        {"inputs": [text], "parameters": {"binary_data_output": True}},
        {"inputs": [text], "outputs": [{"name": "label", "parameters": {"binary_data": True}}, {"name": "truncated"}]},
        {"inputs": tokens},
        {"inputs": []},
    ):
        yield json.dumps(body).encode(), None
    data = np.uint32(4).tobytes() + b"fine"
    for output in (False, True):
        tensor = {**TEXT, "parameters": {"binary_data_size": len(data)}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": output}}).encode()
        yield head + data, len(head)


class Document:
    def __init__(self, url):
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as response:
            self.document = json.load(response)
        self.url, self.called, self.count = url, set(), 0

    def validate(self, body, schema, place):
        """Validates against a schema of the document, whose references begin at its root."""
        # References of a schema resolve in the document that encloses it.
        whole = {**self.document, "$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": [schema]}
        errors = list(Draft202012Validator(whole).iter_errors(body))
        assert not errors, f"{place}: {errors[0].json_path} of {body!r}: {errors[0].message}"

    def check_body(self, content, kind, body, json_length, place):
        kind = kind.split(";")[0]
        assert kind in content, f"{place}: {kind} is not one of {list(content)}"
        schema = content[kind]["schema"]
        if kind == BINARY:
            # A body of bytes is a string in JSON Schema, whose format names its octets.
            assert schema["format"] == "binary", (place, schema)
            self.validate(body.decode("latin-1"), schema, place)
            self.validate(json.loads(body[:json_length]), content["application/json"]["schema"], place)
        elif kind == "application/json":
            self.validate(json.loads(body), schema, place)
        else:
            self.validate(body.decode(), schema, place)

    def call(self, method, path, names={}, body=None, json_length=None, kind="application/json", status=200):
        place = f"{method} {path} with {body!r}"
        operation = self.document["paths"][path][method.lower()]
        headers = {}
        if body is not None:
            kind = BINARY if json_length is not None else kind
            self.check_body(operation["requestBody"]["content"], kind, body, json_length, place)
            headers = {"content-type": kind}
        if json_length is not None:
            headers["inference-header-content-length"] = str(json_length)
        request = urllib.request.Request(self.url + path.format(**names), body, headers, method=method)
        try:
            response = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            answer = response.read()
        assert response.status == status, f"{place}: {response.status}: {answer!r}"
        described = operation["responses"][str(status)]
        for name in response.headers:
            if name.startswith(("x-model", "x-predicted", "inference")):
                assert name in described["headers"], f"{place}: the header {name} is not described"
        length = int(response.headers.get("inference-header-content-length", 0))
        self.check_body(described["content"], response.headers["content-type"], answer, length, place)
        self.count += 1
        if status == 200:
            self.called.add((method.lower(), path))
        return answer


def main(url, model, version):
    document, answers = Document(url), {}
    of_version = {"model": model, "version": version}
    for path, operations in document.document["paths"].items():
        if "get" in operations:
            answers[path] = document.call("GET", path, of_version)
    for body in ({"text": "a fine film"}, {"text": "a fine film", "top_k": 2}, {"texts": ["a fine film", " "]}):
        document.call("POST", "/predict", body=json.dumps(body).encode())
    document.call("POST", "/predict", body=b'{"text": " "}', status=400)
    document.call("GET", "/v2/models/{model}", {"model": "other"}, status=404)
    inputs = json.loads(answers["/v2/models/{model}"])["inputs"]
    graph_inputs = [tensor["name"] for tensor in inputs if tensor["name"] != TEXT["name"]]
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        for body, json_length in infer_requests(graph_inputs):
            status = 400 if body == b'{"inputs": []}' else 200
            document.call("POST", path, of_version, body, json_length, status=status)
        document.call("POST", path, {**of_version, "model": "other"}, b'{"inputs": []}', status=404)
    operations = {(method, path) for path, of_path in document.document["paths"].items() for method in of_path}
    assert document.called == operations, operations - document.called
    print(f"OpenAPI: {document.count} requests and answers of {len(operations)} operations are as described")


if __name__ == "__main__":
    main(*sys.argv[1:])

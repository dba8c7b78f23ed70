"""Tests the Open Inference Protocol of a running server with Triton's client.

Usage: oip.py URL MODEL VERSION     for example: oip.py localhost:8081 sentiment v2
"""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

TEXTS = ["A wonderful film, I love it.", "What a terrible waste of time."]
LABELS = ["positive", "negative"]


def text_tensor(binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("text", [len(TEXTS)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in TEXTS], np.object_), binary)
    return tensor


def token_tensors(binary: bool, names: list[str]) -> list[triton.InferInput]:
    values = {"input_ids": [[2, 5, 6, 3]], "attention_mask": [[1, 1, 1, 1]], "token_type_ids": [[0] * 4]}
    tensors = []
    for name in names:
        tensor = triton.InferInput(name, [1, 4], "INT64")
        tensor.set_data_from_numpy(np.array(values[name], np.int64), binary)
        tensors.append(tensor)
    return tensors


def expect_error(expected: str, call) -> None:
    try:
        call()
    except InferenceServerException as error:
        assert expected in error.message(), error.message()
    else:
        raise AssertionError(f"the server accepted a request that must fail with: {expected}")


def main(url: str, model: str, version: str) -> None:
    client = triton.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready()
    for requested_version in ("", version):
        assert client.is_model_ready(model, requested_version)
        metadata = client.get_model_metadata(model, requested_version)
        assert metadata["name"] == model and metadata["versions"] == [version]
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    token_input_names = [tensor["name"] for tensor in metadata["inputs"] if tensor["name"] != "text"]

    all_logits = []
    for binary in (False, True):
        for requested_version in ("", version):
            outputs = [
                triton.InferRequestedOutput(name, binary_data=binary)
                for name in ("label", "confidence", "logits")
            ]
            result = client.infer(
                model, [text_tensor(binary)], model_version=requested_version, outputs=outputs, request_id="7"
            )
            assert result.get_response()["id"] == "7"
            labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
            assert labels == LABELS, labels
            assert ((result.as_numpy("confidence") > 0.5) & (result.as_numpy("confidence") <= 1)).all()
            all_logits.append(result.as_numpy("logits"))
    assert all(np.allclose(logits, all_logits[0], atol=1e-5) for logits in all_logits), all_logits

    for algorithm in ("gzip", "deflate"):
        for binary in (False, True):
            outputs = [triton.InferRequestedOutput("label", binary_data=binary)]
            result = client.infer(
                model,
                [text_tensor(binary)],
                outputs=outputs,
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
            assert labels == LABELS, (algorithm, labels)

    all_logits = []
    for binary in (False, True):
        outputs = [triton.InferRequestedOutput("logits", binary_data=binary)]
        result = client.infer(model, token_tensors(binary, token_input_names), outputs=outputs)
        assert [output["name"] for output in result.get_response()["outputs"]] == ["logits"]
        all_logits.append(result.as_numpy("logits"))
    assert all_logits[0].shape == (1, 2) and np.allclose(all_logits[0], all_logits[1], atol=1e-6), all_logits

    expect_error("is not served here", lambda: client.get_model_metadata("other"))
    expect_error("version", lambda: client.infer(model, [text_tensor(True)], model_version="v999"))
    expect_error("missing", lambda: client.infer(model, token_tensors(True, token_input_names)[:1]) if len(token_input_names) > 1 else client.infer(model, []))
    unknown = [triton.InferRequestedOutput("nothing")]
    expect_error("unknown", lambda: client.infer(model, [text_tensor(True)], outputs=unknown))
    print("Open Inference Protocol: tritonclient found no error")


if __name__ == "__main__":
    main(*sys.argv[1:])

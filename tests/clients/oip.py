"""Speaks the Open Inference Protocol to a running server, with clients that others wrote.

Usage: oip.py URL MODEL VERSION     such as: oip.py localhost:8081 sentiment v2
"""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

TEXTS = ["A wonderful film, I love it.", "What a terrible waste of time."]
LABELS = ["positive", "negative"]


def text_input(binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("text", [len(TEXTS)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in TEXTS], np.object_), binary)
    return tensor


def raw_inputs(binary: bool, names: list[str]) -> list[triton.InferInput]:
    values = {"input_ids": [[2, 5, 6, 3]], "attention_mask": [[1, 1, 1, 1]], "token_type_ids": [[0] * 4]}
    tensors = []
    for name in names:
        tensor = triton.InferInput(name, [1, 4], "INT64")
        tensor.set_data_from_numpy(np.array(values[name], np.int64), binary)
        tensors.append(tensor)
    return tensors


def expect_refusal(words: str, call) -> None:
    try:
        call()
    except InferenceServerException as error:
        assert words in error.message(), error.message()
    else:
        raise AssertionError(f"not refused: {words}")


def main(url: str, model: str, version: str) -> None:
    client = triton.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready()
    for known in ("", version):
        assert client.is_model_ready(model, known)
        metadata = client.get_model_metadata(model, known)
        assert metadata["name"] == model and metadata["versions"] == [version]
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    raw_names = [given["name"] for given in metadata["inputs"] if given["name"] != "text"]

    seen = []
    for binary in (False, True):
        for known in ("", version):
            outputs = [
                triton.InferRequestedOutput(name, binary_data=binary)
                for name in ("label", "confidence", "logits")
            ]
            answer = client.infer(
                model, [text_input(binary)], model_version=known, outputs=outputs, request_id="7"
            )
            assert answer.get_response()["id"] == "7"
            labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")]
            assert labels == LABELS, labels
            assert ((answer.as_numpy("confidence") > 0.5) & (answer.as_numpy("confidence") <= 1)).all()
            seen.append(answer.as_numpy("logits"))
    assert all(np.allclose(logits, seen[0], atol=1e-5) for logits in seen), seen

    seen = []
    for binary in (False, True):
        outputs = [triton.InferRequestedOutput("logits", binary_data=binary)]
        answer = client.infer(model, raw_inputs(binary, raw_names), outputs=outputs)
        assert [output["name"] for output in answer.get_response()["outputs"]] == ["logits"]
        seen.append(answer.as_numpy("logits"))
    assert seen[0].shape == (1, 2) and np.allclose(seen[0], seen[1], atol=1e-6), seen

    expect_refusal("no model", lambda: client.get_model_metadata("other"))
    expect_refusal("version", lambda: client.infer(model, [text_input(True)], model_version="v999"))
    expect_refusal("missing", lambda: client.infer(model, raw_inputs(True, raw_names)[:1]) if len(raw_names) > 1 else client.infer(model, []))
    unknown = [triton.InferRequestedOutput("nothing")]
    expect_refusal("unknown", lambda: client.infer(model, [text_input(True)], outputs=unknown))
    print("Open Inference Protocol: tritonclient is content")


if __name__ == "__main__":
    main(*sys.argv[1:])

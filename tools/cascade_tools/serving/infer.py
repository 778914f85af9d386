"""A first call: rows from a file to a served cascade, by plain tritonclient."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cascade_tools.errors import CascadeError, UsageError
from cascade_tools.spec import ADDRESS, LARGEST_PORT, NOT_INPUTS
from cascade_tools.store import load_npz, text_as_bytes

DEFAULT_PORT = {"grpc": 8001, "http": 8000}
OUTPUTS = ("LABEL", "CONFIDENCE", "TIER", "FLAGS")
FLAGS = {1: "degraded", 2: "deadline", 4: "fallback"}
TIMEOUT_S = 60.0


def infer_rows(
    path: Path,
    model: str,
    url: str | None,
    protocol: Literal["grpc", "http"],
    deadline_ms: int | None,
) -> list[dict[str, Any]]:
    """Answers in the order of the rows: label, confidence, tier (index in the ladder), flags.

    Raises:
        UsageError: the file does not fit the model's inputs.
        CascadeError: no server there, or it refused.
    """
    arrays = {name: text_as_bytes(v) for name, v in load_npz(path).items() if name not in NOT_INPUTS}
    library: Any = triton_grpc if protocol == "grpc" else triton_http
    address = url or f"127.0.0.1:{DEFAULT_PORT[protocol]}"
    client = _connect(library, address, protocol)
    try:
        config = _config(client, model, protocol)
        inputs = {i["name"]: i for i in config["input"]}
        _check_outputs(model, {o["name"] for o in config["output"]})
        _check_inputs(path, arrays, inputs)
        wanted = {name: _datatype(entry) for name, entry in inputs.items()}
        max_batch = int(config.get("max_batch_size", 1))
        rows = len(next(iter(arrays.values())))
        answers: list[dict[str, Any]] = []
        for start in range(0, rows, max_batch):
            part = {name: values[start : start + max_batch] for name, values in arrays.items()}
            answers += _ask(library, client, model, part, wanted, deadline_ms)
        return answers
    except InferenceServerException as error:
        raise CascadeError(
            f"{address}: {error.message()}",
            "is the server running, and is --model right? `cascade-tools serve` starts one",
        ) from None
    except (OSError, ValueError, HTTPException) as error:
        raise CascadeError(
            f"{address}: no Triton answers {protocol} there: {error}",
            "start one with `cascade-tools serve`, or give --url",
        ) from None
    finally:
        client.close()


def check_address(address: str) -> None:
    """See that an address is host:port.

    Raises:
        UsageError: it is not.
    """
    port = ADDRESS.fullmatch(address)
    if port is None or int(port.group(port.lastindex or 1)) > LARGEST_PORT:
        raise UsageError(f"--url {address}: must be host:port", "without http://, for example 127.0.0.1:8001")


def _connect(library: Any, address: str, protocol: str) -> Any:
    check_address(address)
    if protocol == "http":
        return library.InferenceServerClient(address, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S)
    return library.InferenceServerClient(address)


def _config(client: Any, model: str, protocol: str) -> dict[str, Any]:
    if protocol == "grpc":
        config: dict[str, Any] = client.get_model_config(model, as_json=True)["config"]
        return config
    config = client.get_model_config(model)
    return config


def _datatype(entry: dict[str, Any]) -> str:
    name = str(entry["data_type"]).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name  # configs and requests have a word of their own


def _check_outputs(model: str, outputs: set[str]) -> None:
    missing = sorted(set(OUTPUTS) - outputs)
    if missing:
        raise UsageError(f"--model {model}: is no cascade: it has no output {missing[0]}")


def _check_inputs(path: Path, arrays: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
    if set(arrays) != set(wanted):
        raise UsageError(
            f"{path}: has arrays {sorted(arrays)}, the model takes {sorted(wanted)}",
            "save them with numpy.savez(path, NAME=array, ...)",
        )
    for name, values in arrays.items():
        datatype = _datatype(wanted[name])
        if np_to_triton_dtype(values.dtype) != datatype:
            raise UsageError(f"{path}: array {name!r} is {values.dtype}, the model takes {datatype}")
        dims = [int(size) for size in wanted[name]["dims"]]
        row = list(values.shape[1:])
        if len(row) != len(dims) or any(d not in (-1, size) for d, size in zip(dims, row, strict=True)):
            raise UsageError(
                f"{path}: array {name!r} has rows of shape {row}, the model takes {dims}",
                "the first dimension of an array is the rows",
            )
    lengths = {len(values) if values.ndim else 0 for values in arrays.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise UsageError(f"{path}: the arrays need the same number of rows, and at least one")


def _ask(
    library: Any,
    client: Any,
    model: str,
    rows: dict[str, Any],
    datatypes: dict[str, str],
    deadline_ms: int | None,
) -> list[dict[str, Any]]:
    tensors = []
    for name, values in rows.items():
        tensor = library.InferInput(name, list(values.shape), datatypes[name])
        tensor.set_data_from_numpy(np.ascontiguousarray(values))
        tensors.append(tensor)
    parameters = {"deadline_ms": deadline_ms} if deadline_ms is not None else None
    wanted = [library.InferRequestedOutput(name) for name in OUTPUTS]
    options = {"client_timeout": TIMEOUT_S} if library is triton_grpc else {}
    result = client.infer(model, tensors, outputs=wanted, parameters=parameters, **options)
    label = result.as_numpy("LABEL")
    confidence, tier, flags = (result.as_numpy(name).ravel() for name in OUTPUTS[1:])
    return [
        {
            "label": label[i].tolist() if label.shape[1] > 1 else int(label[i, 0]),
            "confidence": float(confidence[i]),
            "tier": int(tier[i]),
            "flags": ", ".join(word for bit, word in FLAGS.items() if int(flags[i]) & bit),
        }
        for i in range(len(label))
    ]

"""A tier that other hosts serve, as a model of the same name: a proxy on Triton's Python backend.

Batches go to the hosts in the shares of the plan, each whole to one; where this host has instances of the
tier, too, they are a model of their own that gets its share by BLS. A host that cannot be reached is left
alone, for longer each time, and the others take its rows. So is one that does not answer in time, but its
rows are not sent again: it may still work on them, and overload must not feed itself. Then, and where nobody
can be reached, the requests get an error that names the host, and the router goes on as for every tier that
fails. Needs `tritonclient[grpc]` in the server's Python.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from .joined import answer

FIRST_REST_S, LONGEST_REST_S = 1.0, 30.0
LARGEST_MESSAGE = 2**31 - 1
CHANNEL = [
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # Else a host that comes back after minutes is not tried for two more.
    ("grpc.max_reconnect_backoff_ms", 1000),
]

Rows = Mapping[str, npt.NDArray[np.generic]]


class _Unreachable(Exception):
    """Nobody is there; the message says where."""


class _Late(Exception):
    """No answer in time; the message says from whom."""


FAULTS = {"StatusCode.UNAVAILABLE": _Unreachable, "StatusCode.DEADLINE_EXCEEDED": _Late}


class _Way(Protocol):
    """Where rows can go."""

    def ask(self, outputs: Sequence[str], rows: Rows) -> list[Any]:
        """The wanted outputs of all rows; raises _Unreachable, _Late, or what the model said."""

    def close(self) -> None:
        """Let the connection go."""


class _Remote:
    """A model of the server at an address, by gRPC."""

    def __init__(self, address: str, model: str, datatypes: Mapping[str, str], timeout_s: float) -> None:
        try:
            import tritonclient.grpc as triton_grpc
        except ImportError as error:
            raise RuntimeError(
                f"a tier on other hosts needs tritonclient in the server's Python: {error}; run "
                "`pip install tritonclient[grpc]` there"
            ) from None
        self._library = triton_grpc
        self._address = address
        self._model = model
        self._datatypes = datatypes
        self._timeout_s = timeout_s
        self._client = triton_grpc.InferenceServerClient(address, channel_args=CHANNEL)

    def ask(self, outputs: Sequence[str], rows: Rows) -> list[Any]:
        sent = []
        for name, values in rows.items():
            tensor = self._library.InferInput(name, values.shape, self._datatypes[name])
            tensor.set_data_from_numpy(values)
            sent.append(tensor)
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]
        try:
            found = self._client.infer(self._model, sent, outputs=wanted, client_timeout=self._timeout_s)
        except Exception as error:
            status = str(getattr(error, "status", str)())
            raise FAULTS.get(status, RuntimeError)(f"{self._model} on {self._address}: {error}") from None
        return [found.as_numpy(name) for name in outputs]

    def close(self) -> None:
        self._client.close()


class _Here:
    """The instances of this host."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._cpu = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    def ask(self, outputs: Sequence[str], rows: Rows) -> list[Any]:
        response = pb_utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, values) for name, values in rows.items()],
            preferred_memory=self._cpu,
        ).exec()
        if response.has_error():
            raise RuntimeError(f"{self._model}: {response.error().message()}")
        found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        return [found[name] for name in outputs]

    def close(self) -> None:
        """Nothing is open."""


class TritonPythonModel:
    """One connection to each host per instance; requests of a batch go together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the connections; a host need not be there yet."""
        config = json.loads(args["model_config"])
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        datatypes = {e["name"]: _wire_datatype(e["data_type"]) for e in config["input"]}
        ways = json.loads(config["parameters"]["ways"]["string_value"])
        timeout_s = float(config["parameters"]["timeout_s"]["string_value"])
        self._ways: list[_Way] = [
            _Remote(way["address"], way["model"], datatypes, timeout_s)
            if "address" in way
            else _Here(way["model"])
            for way in ways
        ]
        self._shares = [float(way["share"]) for way in ways]
        self._owed = [0.0] * len(ways)  # rows
        self._rests_until_s = [0.0] * len(ways)
        self._rest_s = [0.0] * len(ways)  # the last one; 0 after an answer

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return answer(requests, self._inputs, self._outputs, self._ask)

    def finalize(self) -> None:
        """Close the connections."""
        for way in self._ways:
            way.close()

    def _ask(self, outputs: Sequence[str], rows: Rows) -> list[Any]:
        errors = []
        for number in self._order(len(rows[self._inputs[0]])):
            try:
                found = self._ways[number].ask(outputs, rows)
            except _Late:
                self._rest(number)
                raise
            except _Unreachable as error:
                self._rest(number)
                errors.append(str(error))
            except Exception as error:
                errors.append(str(error))
            else:
                self._rest_s[number] = 0.0
                return found
        raise RuntimeError("; ".join(errors))

    def _rest(self, number: int) -> None:
        self._rest_s[number] = min(LONGEST_REST_S, max(FIRST_REST_S, 2.0 * self._rest_s[number]))
        self._rests_until_s[number] = time.monotonic() + self._rest_s[number]

    def _order(self, rows: int) -> list[int]:
        """The way whose turn it is, then the others; those that rest come last.

        Each way that does not rest is owed its share of all rows; who is owed most is next.
        """
        now = time.monotonic()
        resting = [number for number, until in enumerate(self._rests_until_s) if until > now]
        awake = [number for number in range(len(self._ways)) if number not in resting] or resting
        whole = sum(self._shares[number] for number in awake)
        for number in awake:
            self._owed[number] += rows * self._shares[number] / whole
        awake.sort(key=lambda number: -self._owed[number])
        self._owed[awake[0]] -= rows
        return awake + [number for number in resting if number not in awake]


def _wire_datatype(name: str) -> str:
    """A datatype of a model's config as requests have it."""
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")

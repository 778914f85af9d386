"""Asks models that Triton already serves: on a server of our own over their repository, or on the user's.

Nothing of such a model is read from its files; what it takes and gives is what the server says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cascade_tools.errors import CascadeError, UsageError
from cascade_tools.serving.embedded import Adopted, Server, adopted_triton
from cascade_tools.spec import Cascade
from cascade_tools.store import digest_bytes

TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 2.0


class AdoptedModels:
    """The adopted models of a cascade, ready to be asked; from any thread.

    Args:
        client: of the server that has them.
        server: where it is ours; None for the user's.
    """

    def __init__(self, client: triton_grpc.InferenceServerClient, server: Server | None) -> None:
        self._client = client
        self.server = server

    def config(self, model: str) -> pb.ModelConfig:
        """The whole config, with what Triton added.

        Raises:
            CascadeError: the server does not have the model, or does not answer.
        """
        with _readable(model):
            return self._client.get_model_config(model, client_timeout=TIMEOUT_S).config

    def ask(self, model: str, inputs: dict[str, npt.NDArray[Any]], output: str) -> npt.NDArray[Any]:
        """One output for rows.

        Args:
            model: its name.
            inputs: by the model's names, in its datatypes.
            output: by the model's name.

        Raises:
            CascadeError: the model answered with an error, or not at all.
        """
        tensors = []
        for name, values in inputs.items():
            tensor = triton_grpc.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
            tensor.set_data_from_numpy(values)
            tensors.append(tensor)
        wanted = [triton_grpc.InferRequestedOutput(output)]
        with _readable(model):
            answer = self._client.infer(model, tensors, outputs=wanted, client_timeout=TIMEOUT_S)
        found = answer.as_numpy(output)
        if found is None:
            raise CascadeError(f"model {model}: gave no output {output}")
        return np.asarray(found)

    def time(self, model: str, inputs: dict[str, npt.NDArray[Any]], output: str) -> float:
        """Seconds that one request spends inside the server, by its own counters; see `ask`."""
        count, seconds = self._answered(model)
        self.ask(model, inputs, output)
        deadline = time.monotonic() + TIMEOUT_S
        while True:  # the server counts a request shortly after it has answered
            count_after, seconds_after = self._answered(model)
            if count_after > count:
                return (seconds_after - seconds) / (count_after - count)
            if time.monotonic() > deadline:
                raise CascadeError(f"model {model}: its server does not count its requests")

    def _answered(self, model: str) -> tuple[int, float]:
        """Requests that the model has answered so far, and their seconds inside the server."""
        with _readable(model):
            found = self._client.get_inference_statistics(model, client_timeout=TIMEOUT_S).model_stats
        success = [entry.inference_stats.success for entry in found]
        return sum(s.count for s in success), sum(s.ns for s in success) / 1e9


@contextmanager
def adopted_models(cascade: Cascade) -> Iterator[AdoptedModels]:
    """Serve the adopted models of a cascade, or find them where they are served.

    Raises:
        UsageError: there is no such repository, or it has no such model.
        EnvironmentLacks: the embedded server does not run here.
        CascadeError: the server does not start, or none answers.
    """
    adopted = adopted_of(cascade)
    if adopted is None:
        assert cascade.triton is not None and cascade.triton.url is not None
        with triton_grpc.InferenceServerClient(cascade.triton.url) as client:
            yield AdoptedModels(client, None)
        return
    with adopted_triton(adopted) as server, triton_grpc.InferenceServerClient(server.grpc_url) as client:
        yield AdoptedModels(client, server)


def adopted_of(cascade: Cascade) -> Adopted | None:
    """The adopted models in their repository; None where a running server has them, or there are none.

    Raises:
        UsageError: there is no such repository, or it has no such model.
    """
    repository = cascade.adopted_repository
    if repository is None or not cascade.adopted:
        return None
    for tier in cascade.adopted:
        name = cascade.model_name(tier.name)
        if not (repository / name).is_dir():
            raise UsageError(
                f"tiers.{tier.name}.source.triton: {repository / name}: no such model",
                "the model repository of 'triton:' holds one folder per model",
            )
    return Adopted(repository, tuple(dict.fromkeys(cascade.model_name(t.name) for t in cascade.adopted)))


def adopted_to_serve(cascade: Cascade) -> Adopted | None:
    """What a server of our own must have beside the cascade's repository; None for nothing.

    Raises:
        UsageError: another server has them, or see `adopted_of`.
    """
    if cascade.adopted and cascade.adopted_repository is None:
        raise UsageError(
            "triton.url: the models of that server cannot be asked from another one",
            "give that server the cascade's repository (`current`) as a further --model-repository, or name "
            "the models' own repository instead of the url",
        )
    return adopted_of(cascade)


def digest_of_served(url: str, model: str) -> str:
    """What a running server says of a model, its config and its ready versions, as one digest.

    `no answer` where it says nothing, so that what was made from an answer counts as stale.
    """
    with triton_grpc.InferenceServerClient(url) as client:
        try:
            config = client.get_model_config(model, client_timeout=LOOK_TIMEOUT_S).config
            versions = client.get_model_metadata(model, client_timeout=LOOK_TIMEOUT_S).versions
        except InferenceServerException:
            return "no answer"
    return digest_bytes(config.SerializeToString(deterministic=True) + b"\0" + ",".join(versions).encode())


@contextmanager
def _readable(model: str) -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        raise CascadeError(
            f"model {model}: {' '.join(str(error.message()).split())[:500]}",
            "see that the server of 'triton:' runs and has the model ready",
        ) from None

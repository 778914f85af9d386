"""The router as a model of Triton's Python backend (BLS); all decisions are in `router.py`."""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .adopted import model_inputs, to_answer
from .batch import Batch, Ticket, TierAnswer
from .counts import open_counts
from .local import open_local_tiers
from .metrics import Family, Metrics
from .plan import PlanFile, TierInfo
from .router import Router, join
from .shadow import SHADOW_VARIABLE, Shadow
from .tiers import Inputs, TierError

FINAL = 1
# What the rows of one request give for each output of the model.
OUTPUTS: dict[str, Callable[[Batch, slice], Any]] = {
    "LABEL": lambda batch, mine: batch.label[mine].reshape(mine.stop - mine.start, -1),
    "CONFIDENCE": lambda batch, mine: batch.confidence[mine, None],
    "TIER": lambda batch, mine: batch.tier[mine, None],
    "FLAGS": lambda batch, mine: batch.flags[mine, None],
    "PROBS": lambda batch, mine: np.asarray(batch.probabilities)[mine],
}


class TritonPythonModel:
    """What Triton loads. Error responses are sent, never raised out of `execute`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the gear plan; a missing or illegal one keeps the model from loading."""
        _log_to_triton()
        faulthandler.enable()  # a crash leaves the stacks of all threads in Triton's log
        plan_file = PlanFile(Path(args["model_repository"]) / "plan" / "gear_plan.json")
        # The names below do not exist yet while Triton imports this file.
        self._cpu = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU)
        metrics = Metrics(_make_family, {"model": args["model_name"]})
        file = os.environ.get(SHADOW_VARIABLE)
        shadow = Shadow(Path(file), self._call_tier, metrics) if file else None
        groups = json.loads(args["model_config"])["instance_group"]
        instances = sum(int(group["count"]) for group in groups)
        counts = open_counts(args["model_name"], args["model_instance_name"], instances)
        models = Path(args["model_repository"]).parent
        self._router = Router(
            plan_file,
            self._call_tier,
            self._send,
            metrics,
            shadow,
            counts,
            lambda plan: open_local_tiers(plan, models),
        )
        gc.freeze()  # what is loaded now stays; no collection has to walk through it again

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what the first tier is sure of; the rest is answered later, by its sender."""
        names = self._router.plan.inputs
        responses: list[Any] = [None] * len(requests)
        tickets: list[Ticket] = []
        parts: list[Inputs] = []
        arrived = 0
        for number, request in enumerate(requests):
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names}
            rows = len(arrays[names[0]])
            if rows == 0:
                responses[number] = _error("the request has no rows", pb_utils.TritonError.INVALID_ARG)
                continue
            try:
                deadline_s = _deadline_s(request)
            except (TypeError, ValueError):
                text = "deadline_ms and deadline_unix_ms must be numbers"
                responses[number] = _error(text, pb_utils.TritonError.INVALID_ARG)
                continue
            arrived += rows
            refusal = self._router.admit(rows)
            if refusal:
                responses[number] = _error(refusal, pb_utils.TritonError.UNAVAILABLE)
                continue
            tickets.append(Ticket(rows, deadline_s, request.is_cancelled, (number, request)))
            parts.append(arrays)
        inputs = join(parts, names) if parts else {}
        batch, completed = self._router.execute(tickets, inputs, arrived)
        for ticket in completed:
            number = ticket.handle[0]
            responses[number] = _answer(batch, ticket)
        return responses

    def finalize(self) -> None:
        """Wait until every handed-off request is answered."""
        self._router.close()

    def _call_tier(self, info: TierInfo, inputs: Inputs, probabilities: bool) -> TierAnswer:
        adopted = info.adopted
        wanted = ["LABEL", "CONFIDENCE", *(["PROBS"] if probabilities else [])]
        sent = inputs if adopted is None else model_inputs(inputs, adopted.inputs)
        response = pb_utils.InferenceRequest(
            model_name=info.model,
            requested_output_names=wanted if adopted is None else [adopted.output],
            inputs=[pb_utils.Tensor(name, values) for name, values in sent.items()],
            preferred_memory=self._cpu,
        ).exec()
        if response.has_error():
            raise TierError(response.error().message())
        outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        if adopted is not None:
            try:
                return to_answer(adopted, outputs[adopted.output], inputs, probabilities)
            except (KeyError, ValueError) as error:
                raise TierError(f"tier {info.tier}: model {info.model}: {error}") from None
        label = outputs["LABEL"] if self._router.plan.tokens else outputs["LABEL"].ravel()
        return TierAnswer(label, outputs["CONFIDENCE"].ravel(), outputs.get("PROBS"))

    def _send(self, batch: Batch, ticket: Ticket) -> None:
        try:
            sender = ticket.handle[1].get_response_sender()
            sender.send(_answer(batch, ticket), flags=FINAL)
        except Exception:
            logging.getLogger("cascade").exception("an answer could not be sent")


def _answer(batch: Batch, ticket: Ticket) -> Any:
    """The response of a complete request; if it cannot be made, an error in its place."""
    try:
        return _response(batch, ticket)
    except Exception as error:
        return _error(f"the answer could not be made: {error!r}", pb_utils.TritonError.INTERNAL)


def _response(batch: Batch, ticket: Ticket) -> Any:
    if ticket.cancelled:
        return _error("the client cancelled the request", pb_utils.TritonError.CANCELLED)
    if ticket.error:
        again = pb_utils.TritonError.UNAVAILABLE if ticket.retryable else pb_utils.TritonError.INTERNAL
        return _error(ticket.error, again)
    mine = slice(ticket.first, ticket.first + ticket.rows)
    # Triton would drop what was not asked for, but from a late answer without Python's lock, which crashes.
    wanted = ticket.handle[1].requested_output_names()
    outputs = [pb_utils.Tensor(name, OUTPUTS[name](batch, mine)) for name in wanted]
    return pb_utils.InferenceResponse(output_tensors=outputs)


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _deadline_s(request: Any) -> float | None:
    """The request's deadline on the monotonic clock, from either of its two parameters."""
    text = request.parameters()
    if not text or text == "{}":
        return None
    parameters = json.loads(text)
    limits = []
    if "deadline_ms" in parameters:
        limits.append(float(parameters["deadline_ms"]) / 1000.0)
    if "deadline_unix_ms" in parameters:
        limits.append(float(parameters["deadline_unix_ms"]) / 1000.0 - time.time())
    return time.monotonic() + min(limits) if limits else None


def _make_family(family: Family) -> Any:
    kinds = {"counter": pb_utils.MetricFamily.COUNTER, "gauge": pb_utils.MetricFamily.GAUGE}
    return pb_utils.MetricFamily(name=family.name, description=family.text, kind=kinds[family.kind])


class _TritonLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            pb_utils.Logger.log_error(text)
        else:
            pb_utils.Logger.log_warn(text)


def _log_to_triton() -> None:
    logger = logging.getLogger("cascade")
    logger.handlers[:] = [_TritonLog()]
    logger.propagate = False

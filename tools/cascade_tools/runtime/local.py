"""Cheap tiers that the router runs in its own process, which saves the call through the server.

A call from model to model costs several wakes of sleeping processes, more than a cheap tier itself takes.
Where ONNX Runtime is at hand (`onnx_session.py` lies beside this file), the router opens the graphs of the
tiers that are planned to take no longer than `inline_entry_ms`; all others, and all where it is not, are
called by BLS.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import TierAnswer
from .plan import Plan

log = logging.getLogger("cascade")


class LocalTier:
    """One graph with its head; may be asked from several threads at once."""

    def __init__(self, session: Any, one_label: bool = True) -> None:
        self._session = session
        self._one_label = one_label

    def __call__(self, inputs: Mapping[str, npt.NDArray[np.generic]], probabilities: bool) -> TierAnswer:
        """The tier's answers, as a call by BLS gives them.

        Raises:
            Exception: whatever ONNX Runtime raises.
        """
        wanted = ["LABEL", "CONFIDENCE", *(["PROBS"] if probabilities else [])]
        known = {name: inputs[name] for name in self._session.inputs}
        label, confidence, *rest = self._session.run(wanted, known)
        return TierAnswer(
            label.ravel() if self._one_label else label, confidence.ravel(), rest[0] if rest else None
        )


def open_local_tiers(plan: Plan, repository: Path) -> dict[str, LocalTier]:
    """The cheap tiers by model name; empty where ONNX Runtime is not at hand.

    A graph that is not the one of the plan is left to its own model, and so is one with weights in a file of
    their own, whose digest in the plan is of both.

    Args:
        plan: the first plan; later ones have the same models.
        repository: the folder of all models.
    """
    try:
        sessions = importlib.import_module(".onnx_session", __package__)
    except ImportError:
        return {}
    found = {}
    for info in plan.ladder:
        if info.adopted is not None or info.p50_ms > plan.limits.inline_entry_ms:
            continue
        graph = repository / info.model / "1" / "model.onnx"
        if not graph.is_file():  # a format that ONNX Runtime does not run
            continue
        try:
            if hashlib.sha256(graph.read_bytes()).hexdigest() == info.sha256:
                found[info.model] = LocalTier(sessions.OnnxSession(graph), plan.tokens is None)
        except Exception as error:
            log.warning("tier %s is asked through the server: %s", info.tier, error)
    return found

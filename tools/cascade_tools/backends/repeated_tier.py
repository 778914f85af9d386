"""A tier that runs its model as often as a request's parameter `repeat` says; for profiling only.

`tier.py` beside it is the code that serves the tier, unchanged; only its session is wrapped. From the times
of a request run once and of one run many times, what the model takes and what the server adds can be told
apart.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


class Repeated:
    """A session that does everything several times.

    Attributes:
        times: how often; the last answer counts.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.times = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> Any:
        """The wanted outputs of all rows."""
        for _ in range(self.times - 1):
            self._session.run(outputs, inputs)
        return self._session.run(outputs, inputs)


class TritonPythonModel:
    """The tier of `tier.py`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the tier."""
        self._tier = importlib.import_module(".tier", __package__).TritonPythonModel()
        self._tier.initialize(args)
        self._session = self._tier._session = Repeated(self._tier._session)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        self._session.times = int(json.loads(requests[0].parameters() or "{}").get("repeat", 1))
        found: list[Any] = self._tier.execute(requests)
        return found

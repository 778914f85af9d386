"""A tier that takes its time; loaded in the place of one, whose own code it finds beside it as `tier.py`."""

from __future__ import annotations

import time
from typing import Any

from .tier import TritonPythonModel as Tier  # type: ignore[import-not-found]

SLEEP_S = 1.5


class TritonPythonModel(Tier):  # type: ignore[misc]
    """The same answers, later."""

    def execute(self, requests: list[Any]) -> Any:
        """Sleep, then answer."""
        time.sleep(SLEEP_S)
        return super().execute(requests)

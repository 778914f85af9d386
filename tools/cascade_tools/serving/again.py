"""Measurements that begin again where the machine stood still.

Triton 2.51 gives a model's process up when it did not move for a second, and may end with it. On a shared
machine that happens to every process at once; it says nothing of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cascade_tools.errors import CascadeError

GAVE_UP = ("is not healthy", "Socket closed", "failed to connect", "Connection reset")  # Triton's, and gRPC's
ATTEMPTS = 3

_T = TypeVar("_T")


def again_if_it_stood_still(measure: Callable[[], _T], say: Callable[[str], None]) -> _T:
    """What `measure` gives; called up to `ATTEMPTS` times while Triton gives a process up.

    Raises:
        CascadeError: of the last attempt, or any other at once.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return measure()
        except CascadeError as error:
            if not any(words in error.message for words in GAVE_UP):
                raise
            say("  a process stood still for a second and Triton gave it up: measuring again")
    return measure()

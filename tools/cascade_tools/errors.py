"""What can go wrong, one small tree.

    CascadeError                 base; carries a message and what to do next
      CheckFailed                1  a check or an objective failed
      UsageError                 2  wrong usage or bad input: names the field or the file
        ArtifactError            2  a file in build/ is missing, corrupt or of another cascade
      Infeasible                 3  no answer exists; names the binding constraint
      EnvironmentLacks           4  the machine lacks something (Triton, GPU, Docker, glibc)

The command line turns each into its exit code in one place (`cli/app.py`). Anything else that reaches it
is a defect of the tool and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class CascadeError(Exception):
    """Base of every error that a user can mend.

    Args:
        message: what is wrong, with the name of the field or file.
        hint: what to do next; empty where the message already says it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(CascadeError):
    """A check or an objective failed."""

    exit_code = 1


class UsageError(CascadeError):
    """Wrong usage or bad input."""

    exit_code = 2


class ArtifactError(UsageError):
    """A file that a stage wrote is missing, corrupt, or belongs to another cascade."""


class Infeasible(CascadeError):
    """No answer exists.

    Args:
        message: what cannot be had, with figures.
        hint: what would make it possible.
        constraint: the name of the constraint that binds.
        details: more for machines, by name.
    """

    exit_code = 3

    def __init__(
        self, message: str, hint: str = "", *, constraint: str, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message, hint)
        self.constraint = constraint
        self.details = dict(details or {})


class EnvironmentLacks(CascadeError):
    """The machine lacks something that the command needs."""

    exit_code = 4

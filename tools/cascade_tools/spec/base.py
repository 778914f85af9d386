"""What all parts of a spec are: frozen, without unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Spec(BaseModel):
    """A part of a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe(error: ValidationError) -> str:
    """Every problem of a validation error, as `field.path: what is wrong`, one per line."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "unknown key; remove it or mend its spelling"
        lines.append(f"{where}: {what}" if where else what)
    return "\n  ".join(lines)

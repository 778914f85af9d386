"""What all of them are: frozen, without unknown fields, with the digests of what they were made from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A part of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Artifact(Value):
    """What every stage's file has in common."""

    kind: str
    format: Literal[1] = 1
    cascade: str
    made_from: dict[str, str]

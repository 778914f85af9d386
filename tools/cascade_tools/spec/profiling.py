"""Where the profile comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.names import InnerPath, Name

MOST_INSTANCES = 64  # of one tier while it is profiled


class ProfileChoice(Spec):
    """Where the profile comes from, and how tiers are measured.

    Attributes:
        given: a file or folder in the cascade's folder that is taken in place of measuring: a table (`.yaml`,
            `.csv`), a profile (`.json`), or what Model Analyzer wrote.
        device: of `given`: type of the device that Model Analyzer measured; default: the only GPU type.
        through: `server` loads each tier alone on the embedded Triton and sends it batches; `process` runs it
            without a server; `auto` takes the server where it can be started.
        batches: rows of a batch; those above `serving.max_batch_size` are left out.
        instances: of a tier that run at the same time, through the server only. Planning counts with one;
            more show how they disturb each other.
    """

    given: InnerPath | None = None
    device: Name | None = None
    through: Literal["auto", "server", "process"] = "auto"
    batches: tuple[int, ...] = Field(default=(1, 2, 4, 8, 16, 32), min_length=1)
    instances: tuple[int, ...] = Field(default=(1,), min_length=1)

    @model_validator(mode="after")
    def _planning_has_what_it_needs(self) -> ProfileChoice:
        for name, values in (("batches", self.batches), ("instances", self.instances)):
            if min(values) < 1 or len(set(values)) < len(values):
                raise ValueError(f"{name!r} must be whole numbers from 1, none of them twice")
            if 1 not in values:
                raise ValueError(f"{name!r} must hold 1: the plan counts with single rows and instances")
        if max(self.instances) > MOST_INSTANCES:
            raise ValueError(f"'instances' must be at most {MOST_INSTANCES}")
        return self

"""A placement problem that a person writes by hand: tiers, devices, and nothing else of a cascade.

    tiers:
      - {name: small, reach: 1, batch: 4, weights_mib: 90, activation_mib: 70, time_ms: {A: 4.3},
         utilization: {A: 0.28}}
      - {name: giant, reach: 0.2, batch: 4, weights_mib: 40960, activation_mib: 900, time_ms: {A: 120},
         utilization: {A: 0.9}, energy_j: {A: 3.1}, stages: [2, 4], stage_overhead: {2: 0.04, 4: 0.12}}
    devices:
      - {type: A, count: 8, memory_mib: 24576, reserved_mib: 600, per_host: 4, idle_w: 60}
    rule: loose
    objective: max_rate

Values are taken as they are written: a text is no number. YAML itself reads `1e-3` as a text, so that is a
number here all the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.read import read_spec

MOST_STAGES = 64
MOST_DEVICES = 100_000
MOST_ENTRIES = 64  # tiers, or groups of equal devices
_YAML_TEXT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_LABEL = re.compile(r"[!-~]([ -~]{0,58}[!-~])?")


def _number(value: Any) -> Any:
    """YAML 1.1 has no number without a point before its exponent."""
    return float(value) if isinstance(value, str) and _YAML_TEXT.fullmatch(value) else value


def _label(value: Any) -> Any:
    if isinstance(value, str) and not _LABEL.fullmatch(value):
        raise ValueError("must be 1 to 60 printable ASCII characters, no space at either end")
    return value


def _whole_keys(value: Any) -> Any:
    """Keys of a mapping as whole numbers, where they are written as texts."""
    if not isinstance(value, dict):
        return value
    keys = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in value]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return dict(zip(keys, value.values(), strict=True))


def _list_of_stages(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of numbers of stages, such as [1, 4]")
    return value


Label = Annotated[str, BeforeValidator(_label)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0.0, allow_inf_nan=False)]
Amount = Annotated[float, BeforeValidator(_number), Field(ge=0.0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(gt=0.0, le=1.0, allow_inf_nan=False)]
ByType = Annotated[dict[Label, Positive], Field(min_length=1)]


class Strict(Spec):
    """A part of a problem."""

    model_config = ConfigDict(strict=True)


class ProblemTier(Strict):
    """One tier; mappings are by device type.

    Attributes:
        reach: share of all rows that it sees, 0..1.
        batch: rows of one batch.
        weights_mib: of the whole model; a stage has `weights_mib / S`.
        activation_mib: what an instance of the model, or of any of its stages, holds beside its weights.
        time_ms: of one batch on one instance; a type that is missing cannot run the tier.
        utilization: kernel utilization of one busy instance, of the same types.
        energy_j: dynamic energy of one row through the whole model.
        stages: into how many equal stages it may be cut; 1 is whole.
        stage_overhead: by number of stages, the share that all of them together take longer than the whole:
            one stage takes `time_ms * (1 + overhead) / S`; 0 where it is not given.
    """

    name: Label
    reach: Annotated[float, BeforeValidator(_number), Field(ge=0.0, le=1.0)]
    batch: int = Field(ge=1, le=1_000_000)
    weights_mib: Amount
    activation_mib: Amount = 0.0
    time_ms: ByType
    utilization: Annotated[dict[Label, Share], Field(min_length=1)]
    energy_j: dict[Label, Amount] = Field(default_factory=dict)
    stages: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST_STAGES)], ...],
        BeforeValidator(_list_of_stages),
        Field(strict=False),
    ] = (1,)
    stage_overhead: Annotated[dict[int, Amount], BeforeValidator(_whole_keys)] = Field(default_factory=dict)

    @field_validator("stages")
    @classmethod
    def _stages_differ(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        if not stages or len(set(stages)) < len(stages):
            raise ValueError("must be at least one number of stages, none of them twice")
        return stages


class ProblemDevices(Strict):
    """Equal devices.

    Attributes:
        count: how many.
        memory_mib: of one.
        reserved_mib: of one, that the plan leaves alone.
        per_host: how many are in one host; without it they are in one, with all others without it.
        idle_w: what one that is used draws while it has nothing to do; None counts as 0.
    """

    type: Label
    count: int = Field(default=1, ge=1, le=MOST_DEVICES)
    memory_mib: Annotated[float, BeforeValidator(_number), Field(gt=0.0, allow_inf_nan=False)]
    reserved_mib: Amount = 0.0
    per_host: int | None = Field(default=None, ge=1)
    idle_w: Amount | None = None

    @model_validator(mode="after")
    def _something_is_left(self) -> ProblemDevices:
        if self.reserved_mib >= self.memory_mib:
            raise ValueError("reserved_mib: must be below memory_mib")
        return self


class RateGoal(Strict):
    """The least of something at a given rate.

    Attributes:
        rate_rps: rows/s that must be sustained.
        minimise: `gpus` in use, or `energy`: watts, idle of those in use and dynamic.
    """

    rate_rps: Positive
    minimise: Literal["gpus", "energy"] = "gpus"


def _goal(value: Any) -> Any:
    if value == "max_rate":
        return None
    if not isinstance(value, dict | RateGoal):
        raise ValueError("must be max_rate, or {rate_rps: NUMBER, minimise: gpus | energy}")
    return value


Target = Annotated[RateGoal | None, BeforeValidator(_goal)]  # None: max_rate


class ProblemFile(Strict):
    """A whole problem file."""

    tiers: Annotated[tuple[ProblemTier, ...], Field(strict=False)]
    devices: Annotated[tuple[ProblemDevices, ...], Field(strict=False)]
    rule: Literal["strict", "loose"] = "loose"
    objective: Target = None
    closure: Literal["pool", "host"] = "pool"

    @field_validator("tiers", "devices")
    @classmethod
    def _not_empty(cls, entries: tuple[Strict, ...]) -> tuple[Strict, ...]:
        if not 1 <= len(entries) <= MOST_ENTRIES:
            raise ValueError(f"must have 1 to {MOST_ENTRIES} entries, found {len(entries)}")
        return entries

    @model_validator(mode="after")
    def _names_differ(self) -> ProblemFile:
        names = [tier.name for tier in self.tiers]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"tiers: the name {twice[0]!r} is given twice")
        return self

    @model_validator(mode="after")
    def _mappings_agree(self) -> ProblemFile:
        types = list(dict.fromkeys(group.type for group in self.devices))
        for number, tier in enumerate(self.tiers):
            for kind in tier.time_ms:
                if kind in tier.utilization:
                    continue
                if kind not in types:
                    raise ValueError(
                        f"tiers.{number}.time_ms: names device type {kind!r}, and no device is of that type: "
                        f"they are {', '.join(map(repr, types))}"
                    )
                raise ValueError(
                    f"tiers.{number}.utilization: has nothing for device type {kind!r}, which time_ms has"
                )
            for field in ("utilization", "energy_j"):
                stray = [kind for kind in getattr(tier, field) if kind not in tier.time_ms]
                if stray:
                    raise ValueError(
                        f"tiers.{number}.{field}: names device type {stray[0]!r}, which time_ms has not"
                    )
        return self

    @model_validator(mode="after")
    def _tiers_can_run(self) -> ProblemFile:
        if all(tier.reach == 0.0 for tier in self.tiers):
            raise ValueError("tiers: no row reaches any of them; 'reach' is 1 where the rows enter")
        if sum(group.count for group in self.devices) > MOST_DEVICES:
            raise ValueError(f"devices: more than {MOST_DEVICES:,} in all")
        types = list(dict.fromkeys(group.type for group in self.devices))
        for number, tier in enumerate(self.tiers):
            usable = [kind for kind in types if kind in tier.time_ms]
            if not usable:
                raise ValueError(
                    f"tiers.{number}.time_ms: tier {tier.name!r} runs on no device of this file; it names "
                    f"{', '.join(map(repr, tier.time_ms))}, the devices are {', '.join(map(repr, types))}"
                )
            unknown = [kind for kind in usable if kind not in tier.energy_j]
            if self.objective is not None and self.objective.minimise == "energy" and unknown:
                raise ValueError(
                    f"tiers.{number}.energy_j: tier {tier.name!r} has nothing for device type "
                    f"{unknown[0]!r}, which objective.minimise: energy needs"
                )
        return self


def load_problem(path: Path) -> ProblemFile:
    """Read and check a problem file.

    Raises:
        UsageError: missing, not YAML, or with wrong or unknown fields; all are named.
    """
    return read_spec(ProblemFile, path, "docs/placement.md shows one")

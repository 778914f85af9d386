"""A whole `cascade.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from cascade_tools.errors import UsageError
from cascade_tools.spec.base import Spec, describe
from cascade_tools.spec.data import CalibrationChoice, Data
from cascade_tools.spec.goals import Gears, Objective
from cascade_tools.spec.names import Address, CallableName, InnerPath, Name
from cascade_tools.spec.placement import PlacementChoice
from cascade_tools.spec.profiling import ProfileChoice
from cascade_tools.spec.tiers import Tier, TritonModels, stage_models


class Serving(Spec):
    """Limits of the served cascade.

    Attributes:
        max_batch_size: rows that Triton may join into one batch, for the router and every tier.
        rows_in_flight: rows admitted and unanswered; above it a request is refused at once.
        probabilities: also return PROBS FP32 [classes].
        router_instances: processes that route; more than one where one core cannot route all requests.
        shadow_share: share of the rows answered before the last tier that it labels, too, for `recalibrate`.
    """

    max_batch_size: int = Field(default=32, ge=1, le=4096)
    rows_in_flight: int = Field(default=4096, ge=1)
    probabilities: bool = False
    shadow_share: float = Field(default=0.01, ge=0.0, le=1.0)
    router_instances: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _a_batch_can_be_admitted(self) -> Serving:
        if self.rows_in_flight < self.max_batch_size:
            raise ValueError("rows_in_flight must not be below max_batch_size")
        return self


class Cascade(Spec):
    """A whole `cascade.yaml`; `triton` is needed where a tier's source is.

    Attributes:
        hosts: host:port of the gRPC endpoint of each host's server, by the number that the plan gives it;
            needed where a tier is asked on another host than the router's.
    """

    name: Name
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=8)
    triton: TritonModels | None = None
    data: Data = Data()
    calibration: CalibrationChoice = CalibrationChoice()
    profile: ProfileChoice = ProfileChoice()
    objective: Objective = Objective()
    devices: InnerPath
    hosts: tuple[Address, ...] = ()
    placement: PlacementChoice = PlacementChoice()
    gears: Gears = Gears()
    serving: Serving = Serving()
    train: CallableName | None = None

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _tier_names_differ(self) -> Cascade:
        names = [tier.name for tier in self.tiers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tiers: the name {twice[0]!r} is given twice")
        return self

    @model_validator(mode="after")
    def _adopted_models_have_a_place(self) -> Cascade:
        rendered = {self.name}
        for tier in self.tiers:
            if tier.source.triton is None:
                model = self.model_name(tier.name)
                rendered |= {model, *stage_models(model, tier.stages)}
        for tier in self.adopted:
            field = f"tiers.{tier.name}.source.triton"
            if self.triton is None:
                raise ValueError(
                    f"{field}: say where that model is: add 'triton:' with 'repository', "
                    "'external_repository' or 'url'"
                )
            if tier.source.triton in rendered:
                raise ValueError(f"{field}: {tier.source.triton} is a model of this cascade itself")
        return self

    @model_validator(mode="after")
    def _models_or_given_figures(self) -> Cascade:
        without = [tier.name for tier in self.tiers if not tier.has_model]
        if without and (len(without) < len(self.tiers) or self.profile.given is None):
            raise ValueError(
                f"tiers.{without[0]}.source: missing; only where the profile is given "
                "(`profile: {given: FILE}`) may tiers be without models, and then all of them are"
            )
        if not without and not self.data.validation:
            raise ValueError("data: required; its 'validation' calibrates the tiers")
        reach = {tier.name: tier.reach for tier in self.tiers if tier.reach is not None}
        if reach and not without:
            raise ValueError(f"tiers.{min(reach)}.reach: is for tiers without models; the search finds it")
        if reach and (len(reach) < len(self.tiers) or max(reach.values()) < 1.0):
            raise ValueError("tiers: 'reach' is given for all tiers, and is 1 where the rows enter")
        return self

    @property
    def has_models(self) -> bool:
        """False where the cascade is only planned, from given figures."""
        return self.tiers[0].has_model

    @property
    def adopted(self) -> tuple[Tier, ...]:
        """The tiers whose models Triton already serves."""
        return tuple(tier for tier in self.tiers if tier.source.triton is not None)

    @property
    def adopted_repository(self) -> Path | None:
        """The model repository of the adopted tiers; None where a running server has them."""
        if self.triton is None or self.triton.url is not None:
            return None
        if self.triton.external_repository is not None:
            return Path(self.triton.external_repository)
        assert self.triton.repository is not None
        return self._folder / self.triton.repository

    @property
    def folder(self) -> Path:
        """The folder that holds `cascade.yaml`; relative paths start here."""
        return self._folder

    @property
    def tier_names(self) -> tuple[str, ...]:
        """Names, smallest tier first."""
        return tuple(tier.name for tier in self.tiers)

    def in_folder(self, folder: Path) -> Cascade:
        """The same cascade, whose relative paths start at `folder`."""
        moved = self.model_copy()
        moved._folder = folder
        return moved

    def with_calibration(self, choice: Mapping[str, str]) -> Cascade:
        """The same cascade with other calibration fields."""
        changed = self.model_copy(update={"calibration": self.calibration.model_copy(update=dict(choice))})
        return changed.in_folder(self._folder)

    def with_profile(self, choice: Mapping[str, object]) -> Cascade:
        """The same cascade with other profile fields.

        Raises:
            UsageError: a field cannot have that value.
        """
        try:
            profile = ProfileChoice.model_validate({**self.profile.model_dump(), **choice})
        except ValidationError as error:
            raise UsageError(f"profile: {describe(error)}") from None
        return self.model_copy(update={"profile": profile}).in_folder(self._folder)

    def with_devices(self, path: Path) -> Cascade:
        """The same cascade on the devices of another file, anywhere."""
        return self.model_copy(update={"devices": str(path.resolve())}).in_folder(self._folder)

    def model_name(self, tier: str) -> str:
        """The Triton model of one tier."""
        source = next(entry.source for entry in self.tiers if entry.name == tier)
        return source.triton or f"{self.name}_{tier}"

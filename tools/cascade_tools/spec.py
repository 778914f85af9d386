"""`cascade.yaml`: the only file that a person writes.

It names the tiers (smallest first), the validation data, the objective and the devices. Everything else
is derived from it and kept in `build/<cascade>/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from cascade_tools.errors import UsageError

SPEC_FILE = "cascade.yaml"
NOT_INPUTS = ("target", "group")  # arrays of a data set that no model reads
_T = TypeVar("_T", bound=BaseModel)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TIMM = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_TENSOR = re.compile(r"[!-~]{1,200}")
ADDRESS = re.compile(r"[\w.-]+:(\d{1,5})|\[[0-9a-fA-F:]+\]:(\d{1,5})")  # of a server
LARGEST_PORT = 65535
MOST_INSTANCES = 64  # of one tier while it is profiled


def _check_name(name: str) -> str:
    # Names become model names, folders and metric labels, so nothing in them may need quoting.
    if len(name) > 40 or not _NAME.fullmatch(name):
        raise ValueError(
            "must be lower-case letters, digits and single hyphens, begin with a letter, "
            "and have at most 40 characters"
        )
    return name


def _check_callable(reference: str) -> str:
    if not _CALLABLE.fullmatch(reference):
        raise ValueError("must be 'module:callable' or 'package.module:callable'")
    return reference


def _check_inside(path: str) -> str:
    if len(path) > 200 or "\0" in path:
        raise ValueError("must be a path of at most 200 characters")
    parts = Path(path).parts
    if Path(path).is_absolute() or ".." in parts:
        raise ValueError("must be a relative path inside the cascade's folder")
    return path


def _check_model(name: str) -> str:
    if len(name) > 200 or not _MODEL.fullmatch(name):
        raise ValueError("must be the name of a Triton model: letters, digits and _ . -, at most 200")
    return name


def _check_tensor(name: str) -> str:
    if not _TENSOR.fullmatch(name):
        raise ValueError("must be the name of a tensor: 1 to 200 ASCII characters without spaces")
    return name


def _check_timm(name: str) -> str:
    if len(name) > 100 or not _TIMM.fullmatch(name):
        raise ValueError("must be the name of a timm model, such as vit_tiny_patch16_224")
    return name


def _check_absolute(path: str) -> str:
    if len(path) > 1000 or "\0" in path or not Path(path).is_absolute():
        raise ValueError("must be an absolute path; for one in the cascade's folder there is 'repository'")
    return path


def _check_address(url: str) -> str:
    found = ADDRESS.fullmatch(url)
    if found is None or int(found.group(found.lastindex or 1)) > LARGEST_PORT:
        raise ValueError("must be host:port of the gRPC endpoint, without http://, such as 127.0.0.1:8001")
    return url


Name = Annotated[str, AfterValidator(_check_name)]
CallableName = Annotated[str, AfterValidator(_check_callable)]
InnerPath = Annotated[str, AfterValidator(_check_inside)]
ModelName = Annotated[str, AfterValidator(_check_model)]
TensorName = Annotated[str, AfterValidator(_check_tensor)]
TimmName = Annotated[str, AfterValidator(_check_timm)]
AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]
Address = Annotated[str, AfterValidator(_check_address)]
Gives = Literal["logits", "probabilities"]  # what a model's scores are


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


SOURCES = ("torch", "onnx", "hf", "timm", "triton")
Format = Literal["onnx", "onnx_fp16", "pt2", "tensorrt"]  # that a tier is exported in and served from


class Source(_Spec):
    """Where a tier's model comes from: exactly one of `torch`, `onnx`, `hf`, `timm` and `triton`.

    Attributes:
        torch: `module:callable` that returns a `torch.nn.Module`; modules in the cascade's folder come first.
        weights: state of the torch or timm model, `.safetensors` or a `.pt` that loads with
            `weights_only=True`.
        onnx: an ONNX file that gives the logits [rows, classes].
        hf: a folder of transformers: a classifier of images or texts, or a causal language model.
        timm: the name of a timm model.
        triton: a model that Triton already serves; it stays as it is. Where: see `Cascade.triton`.
        inputs: of `triton`: cascade's input -> model's input; default: those that have the same name.
        output: of `triton` and `onnx`: the scores [rows, classes]; default: the only output.
        gives: what these are.
    """

    torch: CallableName | None = None
    weights: InnerPath | None = None
    onnx: InnerPath | None = None
    hf: InnerPath | None = None
    timm: TimmName | None = None
    triton: ModelName | None = None
    inputs: dict[str, TensorName] | None = Field(default=None, min_length=1)
    output: TensorName | None = None
    gives: Gives = "logits"

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if sum(getattr(self, name) is not None for name in SOURCES) != 1:
            raise ValueError("give exactly one of 'torch', 'onnx', 'hf', 'timm' and 'triton'")
        if self.torch is None and self.timm is None and self.weights is not None:
            raise ValueError("'weights' belongs to 'torch' and 'timm'; any other model holds its own")
        if self.timm is not None and self.weights is None:
            raise ValueError("'timm' needs 'weights', a file: nothing is downloaded")
        of_triton = {"inputs", "gives"} if self.onnx is not None else {"inputs", "output", "gives"}
        stray = sorted(of_triton & self.model_fields_set)
        if stray and self.triton is None:
            owners = "'triton' and 'onnx'" if stray[0] == "output" else "'triton'"
            raise ValueError(f"{stray[0]!r} belongs to {owners}")
        if self.inputs is not None and len(set(self.inputs.values())) < len(self.inputs):
            raise ValueError("inputs: an input of the model is named twice")
        return self


class Tier(_Spec):
    """One size of the ladder.

    Attributes:
        name: becomes part of model names and metric labels.
        source: its model; no tier has one where a cascade is only planned, from given figures.
        reach: without models: the share of all rows that the tier sees, 0..1.
        format: that it is exported in; `onnx` is fp32, `tensorrt` is fp16. See docs/formats.md.
        stages: into how many models the graph is cut, for a model that is too large for one device.
    """

    name: Name
    source: Source = Field(default_factory=Source.model_construct)
    reach: float | None = Field(default=None, ge=0.0, le=1.0)
    format: Format = "onnx"
    stages: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _served_models_stay_as_they_are(self) -> Tier:
        stray = sorted({"format", "stages"} & self.model_fields_set)
        if self.source.triton is not None and stray:
            raise ValueError(f"{stray[0]!r} is not for a model that Triton already serves")
        if self.stages > 1 and self.format not in ("onnx", "onnx_fp16"):
            raise ValueError("'stages' needs format onnx or onnx_fp16")
        if self.format == "pt2" and self.source.onnx is not None:
            raise ValueError(
                "format: pt2 is made of a torch module, not of an ONNX file; take onnx or onnx_fp16"
            )
        return self

    @property
    def has_model(self) -> bool:
        """Whether the tier has a source."""
        return any(getattr(self.source, name) is not None for name in SOURCES)


def stage_models(model: str, stages: int) -> tuple[str, ...]:
    """The Triton models of a tier's stages; none where its model is whole."""
    return tuple(f"{model}_s{k}of{stages}" for k in range(1, stages + 1)) if stages > 1 else ()


class TritonModels(_Spec):
    """Where the models of `source: {triton: NAME}` are: exactly one of these.

    Attributes:
        repository: a Triton model repository in the cascade's folder.
        external_repository: one elsewhere.
        url: gRPC endpoint of a running server; it is asked by `calibrate` and `profile`.
    """

    repository: InnerPath | None = None
    external_repository: AbsolutePath | None = None
    url: Address | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> TritonModels:
        if [self.repository, self.external_repository, self.url].count(None) != 2:
            raise ValueError("give exactly one of 'repository', 'external_repository' and 'url'")
        return self


class Data(_Spec):
    """Labelled rows: an `.npz` in the cascade's folder or `module:callable` that returns the same arrays.

    The arrays are one per model input (first dimension: rows), `target` int [rows], and optionally
    `group` int [rows] (rows of one source, which stay together in every split). With `labels: giant` the last
    tier's answers stand for the truth in the validation rows, which then need no `target`. Only where no tier
    has a model there may be no `validation`.
    """

    validation: str = ""
    test: str | None = None
    labels: Literal["target", "giant"] = "target"

    @model_validator(mode="after")
    def _known_forms(self) -> Data:
        for field in ("validation", "test"):
            reference = getattr(self, field)
            if field not in self.model_fields_set or reference is None:
                continue
            if reference.endswith(".npz"):
                try:
                    _check_inside(reference)
                except ValueError as error:
                    raise ValueError(f"{field}: {error}") from None
            elif not _CALLABLE.fullmatch(reference):
                raise ValueError(f"{field}: must be a path to an .npz file or 'module:callable'")
        return self


class Splits(_Spec):
    """What the validation rows are used for; groups stay whole, classes are spread evenly.

    The promise costs less the more rows verify it, and a temperature needs few rows.
    """

    fit: float = Field(default=0.15, gt=0.0, lt=1.0)
    search: float = Field(default=0.35, gt=0.0, lt=1.0)
    verify: float = Field(default=0.5, gt=0.0, lt=1.0)


class CalibrationChoice(_Spec):
    """How confidence is made from logits.

    Attributes:
        method: `temperature` fits one number per tier by the negative log-likelihood; `platt` a sigmoid and
            `isotonic` a rising curve of the signal; `none` takes the model as it is; `auto` the best of them
            per tier, by the cross-validated likelihood of being right.
        signal: the largest probability, the top-1 minus top-2 margin (CascadeServe), or one minus the
            normalised entropy. Of models that label tokens, the smallest over the tokens.
        mask: the input [rows, tokens] that is not 0 where a token counts; without it all do.
        splits: shares of the validation groups for fitting heads, searching policies and verifying the
            promise.
    """

    method: Literal["temperature", "platt", "isotonic", "none", "auto"] = "temperature"
    signal: Literal["max_probability", "margin", "entropy"] = "max_probability"
    mask: str | None = None
    splits: Splits = Splits()


class ProfileChoice(_Spec):
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


class Objective(_Spec):
    """What the search may give up and what it saves.

    Attributes:
        max_accuracy_drop: points of accuracy below the last tier that may be given up; 0.5 is .005.
        minimise: `device_time` (ms per row), `energy` (J per row), `latency` (ms of the routed path) or
            `money` (per million rows, from `price_per_hour` of the device).
        confidence: the drop holds on new data with this probability (a paired bound on rows that the
            search never sees).
        guarantee: false takes the allowance on the rows at hand as enough and promises nothing.
        max_cost: bound of the mean cost, in the unit of `minimise`.
        max_latency_ms: bounds of the routed path by quantile: `p50`, `p95`, `p99` (modelled, no queues).
    """

    max_accuracy_drop: float = Field(default=1.0, ge=0.0, le=100.0)
    minimise: Literal["device_time", "energy", "latency", "money"] = "device_time"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    guarantee: bool = True
    max_cost: float | None = Field(default=None, gt=0.0)
    max_latency_ms: dict[Literal["p50", "p95", "p99"], float] = Field(default_factory=dict)


class DeviceGroup(_Spec):
    """Equal devices.

    Attributes:
        type: `cpu` or a name of the GPU type.
        kind: what Triton calls it in an instance group.
        count: how many; a CPU device is one host's cores.
        cores: CPU only: cores that the tiers may keep busy.
        memory_mib: memory of one device.
        reserved_mib: memory that the plan leaves alone.
        busy_watts: power of one busy core (CPU) or of the busy device (GPU), dynamic part; only used
            where no meter is readable, and then shown as modelled.
        price_per_hour: of the whole device, in any currency; for `minimise: money`.
    """

    type: Name
    kind: Literal["cpu", "gpu"]
    count: int = Field(default=1, ge=1)
    cores: int | None = Field(default=None, ge=1)
    memory_mib: int = Field(gt=0)
    reserved_mib: int = Field(default=0, ge=0)
    busy_watts: float | None = Field(default=None, gt=0.0)
    price_per_hour: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _cores_fit_kind(self) -> DeviceGroup:
        if (self.kind == "cpu") != (self.cores is not None):
            raise ValueError("'cores' is needed for kind cpu and not allowed for kind gpu")
        if self.kind == "cpu" and self.count != 1:
            raise ValueError("'count' must be 1 for kind cpu: one host is one device")
        if self.reserved_mib >= self.memory_mib:
            raise ValueError("'reserved_mib' must be below 'memory_mib'")
        return self


class Devices(_Spec):
    """The machine that is planned for: a file of its own, so that one cascade fits several machines."""

    devices: tuple[DeviceGroup, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_host(self) -> Devices:
        types = [group.type for group in self.devices]
        if len(set(types)) < len(types):
            raise ValueError("devices: a type is given twice")
        if sum(group.kind == "cpu" for group in self.devices) > 1:
            raise ValueError("devices: one host has one device of kind cpu")
        return self


class BatchTrigger(_Spec):
    """Rows of several requests wait for each other before the first tier, for larger batches.

    Attributes:
        min_queue: rows that are waited for; 1 for none.
        max_wait_ms: how long at most.
    """

    min_queue: int = Field(default=1, ge=1, le=4096)
    max_wait_ms: float = Field(default=0.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _waits_for_a_time(self) -> BatchTrigger:
        if self.min_queue > 1 and not self.max_wait_ms:
            raise ValueError("'max_wait_ms' must be above 0 where 'min_queue' is above 1")
        return self


class Gears(_Spec):
    """Policies for low and high arrival rates.

    Attributes:
        count: how many; policies that coincide are merged.
        reserve: share of the points that the last gear loses, which the first does not.
        target_busy_share: how busy the devices may be before the next gear takes over.
        batch_trigger: of the last gear, which serves the highest rates; the others do not wait.
    """

    count: int = Field(default=2, ge=1, le=16)
    reserve: float = Field(default=0.1, ge=0.0, le=1.0)
    target_busy_share: float = Field(default=0.8, gt=0.0, le=1.0)
    batch_trigger: BatchTrigger = BatchTrigger()


class Serving(_Spec):
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


class Cascade(_Spec):
    """A whole `cascade.yaml`; `triton` is needed where a tier's source is."""

    name: Name
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=8)
    triton: TritonModels | None = None
    data: Data = Data()
    calibration: CalibrationChoice = CalibrationChoice()
    profile: ProfileChoice = ProfileChoice()
    objective: Objective = Objective()
    devices: InnerPath
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

    def with_calibration(self, choice: Mapping[str, str]) -> Cascade:
        """The same cascade with other calibration fields."""
        changed = self.model_copy(update={"calibration": self.calibration.model_copy(update=dict(choice))})
        changed._folder = self._folder
        return changed

    def with_profile(self, choice: Mapping[str, object]) -> Cascade:
        """The same cascade with other profile fields.

        Raises:
            UsageError: a field cannot have that value.
        """
        try:
            profile = ProfileChoice.model_validate({**self.profile.model_dump(), **choice})
        except ValidationError as error:
            raise UsageError(f"profile: {describe(error)}") from None
        changed = self.model_copy(update={"profile": profile})
        changed._folder = self._folder
        return changed

    def model_name(self, tier: str) -> str:
        """The Triton model of one tier."""
        source = next(entry.source for entry in self.tiers if entry.name == tier)
        return source.triton or f"{self.name}_{tier}"


def load_cascade(folder: Path) -> Cascade:
    """Read and check `<folder>/cascade.yaml`.

    Raises:
        UsageError: the file is missing, is not YAML, or has wrong or unknown fields; all are named.
    """
    try:
        path = folder / SPEC_FILE if folder.is_dir() else folder
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    cascade = _checked(Cascade, path)
    cascade._folder = path.parent.resolve()
    return cascade


def load_devices(cascade: Cascade, path: Path | None = None) -> Devices:
    """Read the device file of a cascade, or another one.

    Raises:
        UsageError: as for `load_cascade`.
    """
    return _checked(Devices, path or cascade.folder / cascade.devices)


def _checked(kind: type[_T], path: Path) -> _T:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file", "`cascade-tools init NAME` writes a commented example"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping of fields, found {type(content).__name__}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error)}") from None


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

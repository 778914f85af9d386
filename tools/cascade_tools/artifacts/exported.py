"""What `export` wrote: files, formats, parity, stages."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from cascade_tools.artifacts.base import Artifact, Value
from cascade_tools.artifacts.calibration import InputSpec
from cascade_tools.spec import Format

ExportPath = Annotated[str, Field(pattern=r"^export/[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ExportedFile(Value):
    """One written file, relative to the cascade's build folder."""

    file: ExportPath
    sha256: str


class HalfPrecision(Value):
    """What half precision changed, on validation rows that heads were not fitted on.

    Of `onnx_fp16` it is what a GPU computes, every value between operators rounded; of `tensorrt` the plan's.

    Attributes:
        rows: that were compared.
        labels_changed: rows (of tokens: rows with a token) of another label than in float32.
        ece_before: of the float32 source with its head, over bins of equal mass; None where the labels of
            the rows are not at hand (tokens that the last tier labelled).
        ece_after: of the exported model.
    """

    rows: int
    labels_changed: int
    ece_before: float | None
    ece_after: float | None


class ExportedStage(Value):
    """One stage of a tier that was cut: a model that the next one goes on from.

    Attributes:
        number: from 1.
        beside: what `file` refers to.
        inputs: tensors without the batch dimension, `outputs` likewise.
        weights_mib: of its initializers.
        time_ms: median of one batch of `Partition.batch` rows in process, on one thread.
        crossing_bytes: per row, of all that goes over the cut behind it; 0 for the last stage.
    """

    number: int = Field(ge=1)
    file: ExportPath
    sha256: str
    beside: tuple[ExportedFile, ...] = ()
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    weights_mib: float = Field(ge=0.0)
    time_ms: float = Field(gt=0.0)
    crossing_bytes: int = Field(ge=0)

    @property
    def files(self) -> tuple[ExportedFile, ...]:
        """All files, `file` first."""
        return (ExportedFile(file=self.file, sha256=self.sha256), *self.beside)


class Partition(Value):
    """How a tier was cut into stages, and what that was worth.

    Attributes:
        batch: rows of the timed batches.
        whole_ms: median of one batch by the whole graph, as `ExportedStage.time_ms`.
        balance: time of the slowest stage over the mean of all; 1 is even.
        label_mismatches: of the stages against the whole graph, on the rows of the parity check.
        confidence_error: the largest difference of the confidences.
    """

    stages: tuple[ExportedStage, ...] = Field(min_length=2)
    batch: int = Field(ge=1)
    whole_ms: float = Field(gt=0.0)
    balance: float = Field(ge=1.0)
    label_mismatches: int
    confidence_error: float


class ExportedTier(Value):
    """One exported model: the user's, with its head.

    Attributes:
        file: the whole model, also where it is cut into stages.
        beside: what belongs to `file`: weights over 2 GiB, or the record of a TensorRT plan.
        parity_label_mismatches: of the file as it ran here: labels other than the source's, ties apart.
        parity_confidence_error: the largest difference of the confidences, likewise.
        half: of formats in half precision.
        partition: of a tier that is served in stages.
    """

    tier: str
    format: Format
    file: ExportPath
    sha256: str
    beside: tuple[ExportedFile, ...] = ()
    parameters: int
    parity_rows: int
    parity_label_mismatches: int
    parity_confidence_error: float
    half: HalfPrecision | None = None
    partition: Partition | None = None

    @property
    def files(self) -> tuple[ExportedFile, ...]:
        """All files, `file` first, those of stages last."""
        stages = self.partition.stages if self.partition else ()
        own = ExportedFile(file=self.file, sha256=self.sha256)
        return (own, *self.beside, *(entry for stage in stages for entry in stage.files))

    @property
    def digest(self) -> str:
        """Of all files: that of `file` where it is alone."""
        if len(self.files) == 1:
            return self.sha256
        return hashlib.sha256("\n".join(entry.sha256 for entry in self.files).encode()).hexdigest()


class TensorRTPlan(Value):
    """What a TensorRT plan was built by, on and from; it runs nowhere else.

    Attributes:
        tensorrt: version, all four parts.
        gpu: name as NVML gives it.
        compute_capability: such as `9.0`.
        flags: of the builder, by name.
        onnx_sha256: of the graph in half precision that it was built from.
        min_batch: of the one optimization profile, whose other dimensions are fixed; `opt_batch`,
            `max_batch` likewise.
    """

    kind: Literal["tensorrt_plan"] = "tensorrt_plan"
    tensorrt: str
    gpu: str
    compute_capability: str
    flags: tuple[str, ...]
    onnx_sha256: str
    min_batch: int = Field(ge=1)
    opt_batch: int = Field(ge=1)
    max_batch: int = Field(ge=1)


class Exported(Artifact):
    """The exported tiers, without the adopted ones, and the versions that exported them."""

    kind: Literal["exported"] = "exported"
    tiers: tuple[ExportedTier, ...]
    environment: dict[str, str]

    def tier(self, name: str) -> ExportedTier:
        """The exported graph of the tier of this name."""
        return next(tier for tier in self.tiers if tier.tier == name)

"""The ladder: where the models come from and what they are served as."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.names import (
    AbsolutePath,
    Address,
    CallableName,
    InnerPath,
    ModelName,
    Name,
    TensorName,
    TimmName,
)

Gives = Literal["logits", "probabilities"]  # what a model's scores are
SOURCES = ("torch", "onnx", "hf", "timm", "triton")
Format = Literal["onnx", "onnx_fp16", "pt2", "tensorrt"]  # that a tier is exported in and served from


class Source(Spec):
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


class Tier(Spec):
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


class TritonModels(Spec):
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

"""A repository of all exported tiers, from which a profile loads one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools import backends
from cascade_tools.artifacts import Calibration, ExportedTier
from cascade_tools.repository.manifest import Content
from cascade_tools.repository.render import (
    MODEL_FILES,
    TIER_CODE,
    VERSION,
    InstanceGroup,
    answer_tensors,
    render_tier,
)
from cascade_tools.repository.rules import check_config


@dataclass(frozen=True)
class TierLimits:
    """What the configs of all tiers share."""

    cascade: str
    max_batch_size: int
    probabilities: bool


def profiling_files(
    limits: TierLimits, calibration: Calibration, tiers: Mapping[str, ExportedTier], build: Path
) -> dict[str, Content]:
    """Files of the repository by relative path.

    Args:
        limits: of the cascade.
        calibration: inputs and outputs of the tiers.
        tiers: by the names of their models.
        build: the folder that their files are in.

    Raises:
        UsageError: the embedded server cannot serve a tier's format.
    """
    folder = Path(str(backends.__file__)).parent
    files: dict[str, Content] = {}
    for model, tier in tiers.items():
        config = render_tier(
            "embedded",
            tier.format,
            [InstanceGroup(1, ())],
            name=model,
            tier=tier.tier,
            cascade=limits.cascade,
            inputs=calibration.inputs,
            outputs=answer_tensors(
                calibration.classes, calibration.tokens, probabilities=limits.probabilities
            ),
            max_batch_size=limits.max_batch_size,
            nice=0,
        )
        check_config(f"{model}/config.pbtxt", config, router=False)
        files[f"{model}/config.pbtxt"] = config.encode()
        files[f"{model}/{VERSION}/model.py"] = folder / "repeated_tier.py"
        code, *others = TIER_CODE[tier.format]
        files[f"{model}/{VERSION}/tier.py"] = folder / code
        files |= {f"{model}/{VERSION}/{name}": folder / name for name in others}
        files[f"{model}/{VERSION}/{MODEL_FILES[tier.format]}"] = build / tier.file
        files |= {f"{model}/{VERSION}/{Path(entry.file).name}": build / entry.file for entry in tier.beside}
    return files


def for_measuring(config: bytes, instances: int) -> str:
    """A tier's rendered config with so many instances, as the JSON that Triton's load call takes.

    Requests are not joined: what is measured is a batch of one size.
    """
    parsed = text_format.Parse(config.decode(), pb.ModelConfig())
    parsed.ClearField("dynamic_batching")
    for group in parsed.instance_group:
        group.count = instances
    text: str = json_format.MessageToJson(parsed, preserving_proto_field_name=True, indent=None)
    return text

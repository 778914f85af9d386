"""A repository of all exported tiers, from which a profile loads one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as pb

from cascade_tools import backends
from cascade_tools.artifacts import Calibration
from cascade_tools.repository.place import Files
from cascade_tools.repository.render import VERSION, InstanceGroup, answer_tensors, render_tier
from cascade_tools.repository.rules import check_config


@dataclass(frozen=True)
class TierLimits:
    """What the configs of all tiers share."""

    cascade: str
    max_batch_size: int
    probabilities: bool


def profiling_files(limits: TierLimits, calibration: Calibration, graphs: Mapping[str, Path]) -> Files:
    """Files of the repository by relative path.

    Args:
        limits: of the cascade.
        calibration: inputs and outputs of the tiers.
        graphs: model name -> its ONNX file.
    """
    folder = Path(str(backends.__file__)).parent
    files: Files = {}
    for model, graph in graphs.items():
        config = render_tier(
            "embedded",
            name=model,
            tier=model,
            cascade=limits.cascade,
            inputs=calibration.inputs,
            outputs=answer_tensors(
                calibration.classes, calibration.tokens, probabilities=limits.probabilities
            ),
            max_batch_size=limits.max_batch_size,
            groups=[InstanceGroup(1, ())],
            nice=0,
        )
        check_config(f"{model}/config.pbtxt", config, router=False)
        files[f"{model}/config.pbtxt"] = config.encode()
        files[f"{model}/{VERSION}/model.py"] = (folder / "repeated_tier.py").read_bytes()
        files[f"{model}/{VERSION}/tier.py"] = (folder / "onnx_tier.py").read_bytes()
        files[f"{model}/{VERSION}/onnx_session.py"] = (folder / "onnx_session.py").read_bytes()
        files[f"{model}/{VERSION}/model.onnx"] = graph.read_bytes()
    return files


def for_measuring(config: bytes, instances: int) -> str:
    """A tier's rendered config with so many instances, as the JSON that Triton's load call takes.

    Requests are not joined: what is measured is a batch of one size.
    """
    parsed = text_format.Parse(config.decode(), pb.ModelConfig())
    parsed.ClearField("dynamic_batching")
    for group in parsed.instance_group:
        group.count = instances
    return json_format.MessageToJson(parsed, preserving_proto_field_name=True, indent=None)

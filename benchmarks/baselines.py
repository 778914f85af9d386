"""The repository's side of the routers that ours is compared with: configs, and the code of `routers/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from cascade_tools.artifacts import InputSpec, PolicyTable
from cascade_tools.repository.manifest import Files
from cascade_tools.repository.render import VERSION

MAX_BATCH = 32
ROUTERS = Path(__file__).parent / "routers"
STATE = (("LABEL", "INT64"), ("CONFIDENCE", "FP32"), ("TIER", "INT32"), ("GOAL", "INT32"))


def baseline_files(
    specs: Sequence[InputSpec], policy: PolicyTable, models: Sequence[str], tiers: Sequence[int]
) -> Files:
    """Configs and code of the routers that ours is compared with.

    Args:
        specs: the cascade's inputs.
        policy: the one that all of them follow.
        models: of the tiers in use, smallest first.
        tiers: their indices in the full ladder.
    """
    steps = [
        {"model": model, "tier": tier, "level": level, "cuts": list(entry.cuts), "to": list(entry.to)}
        for level, (model, tier, entry) in enumerate(zip(models, tiers, policy.routes, strict=True))
    ]
    row = [_tensor(spec.name, spec.datatype, spec.dims) for spec in specs]
    answer = [_tensor(name, datatype) for name, datatype in STATE[:3]]
    files: Files = {}
    for name, count in (("sequential", 1), ("sequential8", 8)):
        files[f"{name}/config.pbtxt"] = _config(
            name, row, answer, backend="python", count=count, parameters={"policy": json.dumps(steps)}
        )
        files[f"{name}/{VERSION}/model.py"] = (ROUTERS / "sequential.py").read_bytes()
    state = [_tensor(name, datatype) for name, datatype in STATE]
    for step in steps:
        name = f"masked_{step['level']}"
        before = [_tensor(f"IN_{n}", datatype) for n, datatype in STATE] if step["level"] else []
        files[f"{name}/config.pbtxt"] = _config(
            name, row + before, state, backend="python", batching=True, parameters={"step": json.dumps(step)}
        )
        files[f"{name}/{VERSION}/model.py"] = (ROUTERS / "masked_step.py").read_bytes()
    files["mask_ensemble/config.pbtxt"] = _ensemble(len(models), row, answer)
    # Triton wants a version folder even where it is empty.
    files[f"mask_ensemble/{VERSION}/.keep"] = b""
    return files


def _ensemble(steps: int, row: list[Any], answer: list[Any]) -> bytes:
    last = steps - 1
    scheduled = []
    for level in range(last + 1):
        inputs = {tensor["name"]: tensor["name"] for tensor in row}
        if level:
            inputs |= {f"IN_{name}": f"{name}_{level - 1}" for name, _ in STATE}
        outputs = {name: name if level == last else f"{name}_{level}" for name, _ in STATE[:3]}
        if level < last:
            outputs["GOAL"] = f"GOAL_{level}"
        scheduled.append(
            {"modelName": f"masked_{level}", "modelVersion": -1, "inputMap": inputs, "outputMap": outputs}
        )
    content = {
        "name": "mask_ensemble",
        "platform": "ensemble",
        "maxBatchSize": MAX_BATCH,
        "input": row,
        "output": answer,
        "ensembleScheduling": {"step": scheduled},
    }
    return _text(content)


def _config(
    name: str,
    inputs: list[Any],
    outputs: list[Any],
    backend: str,
    parameters: dict[str, str],
    count: int = 1,
    batching: bool = False,
) -> bytes:
    content: dict[str, Any] = {
        "name": name,
        "backend": backend,
        "maxBatchSize": MAX_BATCH,
        "input": inputs,
        "output": outputs,
        "instanceGroup": [{"count": count, "kind": "KIND_CPU"}],
        "parameters": {key: {"stringValue": value} for key, value in parameters.items()},
    }
    if batching:
        content["dynamicBatching"] = {}
    return _text(content)


def _tensor(name: str, datatype: str, dims: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"name": name, "dataType": f"TYPE_{datatype}", "dims": list(dims)}


def _text(content: dict[str, Any]) -> bytes:
    config = json_format.ParseDict(content, model_config_pb2.ModelConfig())
    text: str = text_format.MessageToString(config)
    return text.encode()

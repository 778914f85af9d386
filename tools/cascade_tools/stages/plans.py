"""Holds a TensorRT plan against the GPUs that it is placed on and the server that will run it."""

from __future__ import annotations

from pydantic import ValidationError

from cascade_tools.artifacts import ExportedTier, Placement, TensorRTPlan
from cascade_tools.errors import ArtifactError, EnvironmentLacks
from cascade_tools.machine.gpus import Gpu, find_gpus
from cascade_tools.machine.server_image import TENSORRT, tensorrt_of
from cascade_tools.repository.render import SERVERS
from cascade_tools.spec import describe
from cascade_tools.store import Workspace


def check_plan(work: Workspace, tier: ExportedTier, placement: Placement) -> None:
    """See that a plan will load where it is placed.

    Raises:
        ArtifactError: it was built on another GPU model, by another TensorRT, or for smaller batches.
        EnvironmentLacks: the GPU or the version of the server's TensorRT cannot be told here.
    """
    record = _record(work, tier)
    gpus = find_gpus()
    placed = {placement.devices[i.device].gpu for i in placement.instances if i.tier == tier.tier}
    numbers = sorted(number for number in placed if number is not None)
    if numbers and numbers[-1] >= len(gpus):
        raise EnvironmentLacks(
            f"tiers.{tier.tier}: its plan is placed on GPU {numbers[-1]}, this machine has {len(gpus)} GPU(s): "
            "whether the plan runs there cannot be told",
            "run build-repo on the machine that will serve",
        )
    server = tensorrt_of(SERVERS["ngc"])
    if server is None:
        raise EnvironmentLacks(
            f"tiers.{tier.tier}: cannot tell the TensorRT of {SERVERS['ngc']}, and a plan needs the one that "
            "built it",
            f"pull the image, or say its version in {TENSORRT} (in the image: `printenv {TENSORRT}`)",
        )
    problems = mismatches(
        record, [gpus[number] for number in numbers], server, work.cascade.serving.max_batch_size
    )
    if problems:
        raise ArtifactError(
            f"{work.path(tier.file)}: " + "; ".join(problems),
            f"with the server's TensorRT, on the GPU that will serve, run `{work.command('export')}`",
        )


def mismatches(record: TensorRTPlan, gpus: list[Gpu], server_tensorrt: str, max_batch: int) -> list[str]:
    """Why a plan would not load; empty if it would.

    Args:
        record: of the plan.
        gpus: that it is placed on.
        server_tensorrt: version in the server image.
        max_batch: rows of the largest batch that the server will make.
    """
    found = []
    for gpu in dict.fromkeys(gpus):
        if (gpu.name, gpu.compute_capability) != (record.gpu, record.compute_capability):
            found.append(
                f"built on {record.gpu} ({record.compute_capability}), placed on {gpu.name} "
                f"({gpu.compute_capability})"
            )
    if record.tensorrt != server_tensorrt:
        found.append(f"built by TensorRT {record.tensorrt}, the server has {server_tensorrt}")
    if record.max_batch < max_batch:
        found.append(f"built for {record.max_batch} rows, serving.max_batch_size is {max_batch}")
    return found


def _record(work: Workspace, tier: ExportedTier) -> TensorRTPlan:
    path = work.path(tier.beside[0].file)
    try:
        return TensorRTPlan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: not the record of a plan: {describe(error)}", f"run `{work.command('export')}`"
        ) from None

"""Builds a TensorRT plan from a graph in half precision.

The network is strongly typed: it computes in the types that the graph names, so the body runs in float16 and
the head in float32, as ONNX Runtime runs the same graph. (TensorRT 11 has no other way: the builder's FP16
flag is gone, see "Migrating from TensorRT 10.x to 11.x" in its documentation.) INT8 and FP8 need quantized
graphs and are left out.

A plan runs on the GPU model and with the TensorRT that built it, nowhere else; `TensorRTPlan` records both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cascade_tools.artifacts import InputSpec, TensorRTPlan
from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.machine.gpus import find_gpus
from cascade_tools.store import digest_file, write_atomically

FLAGS = ("STRONGLY_TYPED",)


class Shapes(NamedTuple):
    """Of one input in the optimization profile, the batch first."""

    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


def require_tensorrt() -> Any:
    """The module `tensorrt`, on a machine that can use it.

    Raises:
        EnvironmentLacks: names what is missing and how to get it.
    """
    import torch

    if not find_gpus():
        raise EnvironmentLacks(
            "format tensorrt: this machine has no NVIDIA GPU (or no driver for it)",
            "a plan is built on the GPU that will run it: export there, or take format onnx_fp16",
        )
    try:
        import tensorrt
    except ImportError as error:
        raise EnvironmentLacks(
            f"format tensorrt: TensorRT is not installed ({error})",
            "run `pip install 'cascade-tools[tensorrt]'`, in the version of the server image",
        ) from None
    if not torch.cuda.is_available():
        raise EnvironmentLacks(
            "format tensorrt: the installed torch has no CUDA, or one newer than the driver",
            "install a CUDA build of torch (https://pytorch.org/get-started/locally/)",
        )
    return tensorrt


def profile_shapes(inputs: tuple[InputSpec, ...], max_batch: int) -> dict[str, Shapes]:
    """From one row to `max_batch`; tactics are chosen for half of that, where batches of a busy server lie.

    Raises:
        UsageError: an input has a dimension of any size.
    """
    found = {}
    for spec in inputs:
        if any(size < 1 for size in spec.dims):
            raise UsageError(
                f"input {spec.name}: format tensorrt needs fixed sizes, has {list(spec.dims)}",
                "give rows of one size, or take another format",
            )
        batches = (1, max(1, max_batch // 2), max_batch)
        found[spec.name] = Shapes(*((batch, *spec.dims) for batch in batches))
    return found


def build_plan(
    graph: Path, plan: Path, inputs: tuple[InputSpec, ...], max_batch: int, timing_cache: Path, field: str
) -> TensorRTPlan:
    """Build a plan on the first GPU and write it to a new file; return its record.

    Args:
        graph: an ONNX file in half precision, with its head.
        plan: where it goes.
        inputs: of the graph.
        max_batch: rows of the largest batch.
        timing_cache: times of kernels that earlier builds took on this GPU; read, and written again.
        field: of the cascade's spec, for the message.

    Raises:
        EnvironmentLacks: TensorRT, a GPU or torch for CUDA is missing.
        UsageError: TensorRT cannot read or build the graph.
    """
    trt = require_tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED  # the default, and ignored, from TensorRT 11 on
    network = builder.create_network(1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise UsageError(
            f"{field}: TensorRT {trt.__version__} cannot read the graph: {reasons}", "take format onnx_fp16"
        )
    config = builder.create_builder_config()
    shapes = profile_shapes(inputs, max_batch)
    profile = builder.create_optimization_profile()
    for name, (least, best, most) in shapes.items():
        profile.set_shape(name, least, best, most)
    config.add_optimization_profile(profile)
    # One of another GPU or TensorRT does not fit; the builder then begins a new one.
    known = timing_cache.read_bytes() if timing_cache.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise UsageError(
            f"{field}: TensorRT {trt.__version__} found no way to run the graph; its log says why",
            "take format onnx_fp16",
        )
    with plan.open("wb") as file:
        file.write(content)
    write_atomically(timing_cache, bytes(config.get_timing_cache().serialize()))
    import torch

    gpu = torch.cuda.get_device_properties(0)  # the one that the builder used
    first = next(iter(shapes.values()))
    return TensorRTPlan(
        tensorrt=trt.__version__,
        gpu=gpu.name,
        compute_capability=f"{gpu.major}.{gpu.minor}",
        flags=FLAGS,
        onnx_sha256=digest_file(graph),
        min_batch=first.least[0],
        opt_batch=first.best[0],
        max_batch=first.most[0],
    )

"""What Triton would refuse is refused before anything is written; each rule is broken once."""

from __future__ import annotations

import pytest

from cascade_tools.errors import CheckFailed
from cascade_tools.repository.rules import check_config

GOOD = """
name: "digits_tiny"
backend: "onnxruntime"
max_batch_size: 32
dynamic_batching { }
input { name: "PIXELS" data_type: TYPE_FP32 dims: [1, 16, 16] }
output { name: "LABEL" data_type: TYPE_INT64 dims: [1] }
output { name: "CONFIDENCE" data_type: TYPE_FP32 dims: [-1] }
instance_group { count: 2 kind: KIND_GPU gpus: [0, 1] }
instance_group { count: 1 kind: KIND_CPU }
"""
ROUTER = GOOD.replace("instance_group { count: 2 kind: KIND_GPU gpus: [0, 1] }\n", "")
PATH = "digits_tiny/config.pbtxt"


def problems(text: str, *, router: bool = False) -> list[str]:
    with pytest.raises(CheckFailed) as caught:
        check_config(PATH, text, router=router)
    path, _, found = caught.value.message.partition(": ")
    assert path == PATH
    return found.split("; ")


def without(line: str) -> str:
    """GOOD without the lines that begin so."""
    left = [entry for entry in GOOD.splitlines() if not entry.startswith(line)]
    assert len(left) < len(GOOD.splitlines())
    return "\n".join(left)


def test_a_legal_config_passes() -> None:
    check_config(PATH, GOOD, router=False)
    check_config(PATH, ROUTER, router=True)


@pytest.mark.parametrize("text", ["name: ", "nonsense: 1", GOOD + "}", 'max_batch_size: "many"'])
def test_what_triton_cannot_read_is_refused(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("Triton cannot read it: ")


GIVEN = "inputs and outputs must be given, or Triton loads the model to guess them"
BROKEN = {
    "the name is not that of the folder": (
        GOOD.replace('"digits_tiny"', '"tiny"'),
        "name 'tiny' differs from its folder 'digits_tiny'",
    ),
    "no name": (without("name"), "name '' differs from its folder 'digits_tiny'"),
    "no backend": (without("backend"), "backend is not given"),
    "no inputs": (without("input"), GIVEN),
    "no outputs": (without("output"), GIVEN),
    "batching without a batch": (
        GOOD.replace("max_batch_size: 32", "max_batch_size: 0"),
        "dynamic_batching needs max_batch_size of at least 1",
    ),
    "an output twice": (GOOD.replace('"LABEL"', '"CONFIDENCE"'), "output: a name is given twice"),
    "an input twice": (
        GOOD + 'input { name: "PIXELS" data_type: TYPE_FP32 dims: [1] }',
        "input: a name is given twice",
    ),
    "no dims": (GOOD.replace(" dims: [-1]", ""), "output 'CONFIDENCE': dims must not be empty"),
    "a dim of 0": (GOOD.replace("[1, 16, 16]", "[1, 0, 16]"), "input 'PIXELS': dims must be positive or -1"),
    "a dim of -2": (GOOD.replace("[-1]", "[-2]"), "output 'CONFIDENCE': dims must be positive or -1"),
    "no instances named": (
        without("instance_group"),
        "instance_group is not given, so Triton would choose the GPUs",
    ),
    "no instance": (GOOD.replace("count: 1", "count: 0"), "instance_group 1: count must be at least 1"),
    "a GPU kind without GPUs": (
        GOOD.replace(" gpus: [0, 1]", ""),
        "instance_group 0: gpus must be listed for KIND_GPU and only then",
    ),
    "GPUs of a CPU kind": (
        GOOD.replace("KIND_CPU", "KIND_CPU gpus: [0]"),
        "instance_group 1: gpus must be listed for KIND_GPU and only then",
    ),
    "GPUs of an open kind": (
        GOOD.replace("kind: KIND_GPU", ""),
        "instance_group 0: gpus must be listed for KIND_GPU and only then",
    ),
    "a GPU twice": (GOOD.replace("[0, 1]", "[1, 1]"), "instance_group 0: a GPU is listed twice"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_named(text: str, problem: str) -> None:
    assert problems(text) == [problem]


BROKEN_ROUTERS = {
    "a GPU": (GOOD, "a router runs on KIND_CPU"),
    "an open kind": (ROUTER.replace("kind: KIND_CPU", ""), "a router runs on KIND_CPU"),
    "resources": (
        ROUTER.replace("KIND_CPU", 'KIND_CPU rate_limiter { resources { name: "R" count: 1 } }'),
        "a router must not take rate limiter resources: its calls could never start",
    ),
    "warm-up": (
        ROUTER + 'model_warmup { name: "first" batch_size: 1 }',
        "a router must not warm up: its tiers may not be loaded yet",
    ),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN_ROUTERS.values(), ids=BROKEN_ROUTERS)
def test_a_rule_of_routers_is_named_and_holds_for_routers_alone(text: str, problem: str) -> None:
    assert problems(text, router=True) == [problem]
    check_config(PATH, text, router=False)


def test_all_broken_rules_are_named_at_once() -> None:
    text = without("backend").replace("count: 1", "count: 0").replace("[-1]", "[0]")
    assert len(problems(text)) == 3

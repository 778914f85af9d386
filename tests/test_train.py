"""The shipped weights can be made again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cascade_tools.errors import UsageError
from cascade_tools.models.sources import load_source
from cascade_tools.models.usercode import load_rows
from cascade_tools.resources import shipped_cascade
from cascade_tools.spec import load_cascade
from cascade_tools.stages.progress import Reporter
from cascade_tools.stages.train import train

SEED = 7
QUIET = Reporter(Console(quiet=True))
ONE_POINT = 0.01


@pytest.fixture(autouse=True)
def _torch_settings_stay() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_the_smallest_tier_trains_to_the_accuracy_of_its_shipped_weights(tmp_path: Path) -> None:
    cascade = load_cascade(shipped_cascade("digits"))
    (made,) = train(cascade, ["tiny"], SEED, tmp_path, QUIET)

    shipped = load_source(cascade, cascade.tiers[0])
    rows = load_rows(cascade, "validation")
    accuracy = float((shipped.logits(rows.inputs).argmax(axis=1) == rows.target).mean())
    assert made.validation_accuracy >= accuracy - ONE_POINT

    state = load_file(tmp_path / "tiny.safetensors")
    ours = load_file(cascade.folder / "weights" / "tiny.safetensors")
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in ours.items()
    }
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float16}
    assert made.parameters == sum(int(np.prod(v.shape)) for n, v in state.items() if _is_parameter(n))


def _is_parameter(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_an_unknown_tier_is_named_with_those_there_are(tmp_path: Path) -> None:
    cascade = load_cascade(shipped_cascade("digits"))
    with pytest.raises(UsageError, match="--tier huge: no such tier; there are tiny, small, base, giant"):
        train(cascade, ["huge"], SEED, tmp_path, QUIET)
    assert not list(tmp_path.iterdir())


def test_shipped_weights_stay_small() -> None:
    folder = shipped_cascade("digits") / "weights"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 15 * 10**6

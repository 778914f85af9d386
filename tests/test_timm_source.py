"""timm models as tiers: timm's own tiny test models, with drawn weights in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.models.extras import import_extra
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import load_source
from tests.exported import assert_answers_as_its_source
from tests.helpers import Array, spec_content, write_cascade

try:
    timm: Any = import_extra("timm", "timm", "tests")
except EnvironmentLacks as error:
    pytest.skip(f"NOT TESTED: {error.message}; {error.hint}", allow_module_level=True)

CLASSES, CHANNELS, SIDE = 4, 1, 32
NAME = "test_resnet"


def state(name: str = NAME, classes: int = CLASSES, channels: int = CHANNELS) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    with torch.no_grad():
        for weight in model.get_classifier().parameters():
            weight.normal_(0.0, 0.3)
    found: dict[str, torch.Tensor] = model.state_dict()
    return found


def load(folder: Path, weights: dict[str, torch.Tensor], name: str = NAME) -> ExportableSource:
    content = spec_content()
    content["tiers"] = [{"name": "small", "source": {"timm": name, "weights": "small.safetensors"}}]
    cascade = write_cascade(folder, content)
    save_file(weights, folder / "small.safetensors")
    return load_source(cascade, cascade.tiers[0])


def rows(count: int) -> dict[str, Array]:
    pixels = np.random.default_rng(count).normal(size=(count, CHANNELS, SIDE, SIDE))
    contrast = np.linspace(0.1, 9.0, count).reshape(-1, 1, 1, 1)  # else all look alike to drawn weights
    return {"IMAGE": (contrast * pixels).astype(np.float32)}


def test_classes_and_channels_are_those_of_the_weights(tmp_path: Path) -> None:
    source = load(tmp_path, state())
    assert source.logits(rows(5)).shape == (5, CLASSES)
    assert_answers_as_its_source(source, rows)


def test_logits_are_those_of_timm(tmp_path: Path) -> None:
    weights = state("test_vit", channels=3)
    model = timm.create_model("test_vit", pretrained=False, num_classes=CLASSES).eval()
    model.load_state_dict(weights)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 160, 160)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(pixels)).numpy()
    found = load(tmp_path, weights, "test_vit").logits({"IMAGE": pixels})
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "remove", "message"),
    [
        ("resnet_18", (), "has no model 'resnet_18'"),
        (NAME, ("fc.weight",), "hold no classifier 'fc' of test_resnet"),
        (NAME, ("layer1.0.conv1.weight",), 'do not fit the module: missing "layer1.0.conv1.weight"'),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, name: str, remove: tuple[str, ...], message: str
) -> None:
    weights = {key: value for key, value in state().items() if key not in remove}
    with pytest.raises(UsageError) as caught:
        load(tmp_path, weights, name)
    assert caught.value.message.startswith("tiers.small.source.")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_two_inputs_are_too_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes one input, .* but the data has \['IMAGE', 'MORE'\]"):
        load(tmp_path, state()).logits({**rows(1), "MORE": rows(1)["IMAGE"]})


def test_without_timm_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentLacks) as caught:
        load(tmp_path, {"fc.weight": torch.zeros(1)})
    assert caught.value.message == "tiers.small.source.timm: needs timm, which is not installed"
    assert caught.value.hint == "pip install 'cascade-tools[timm]'"

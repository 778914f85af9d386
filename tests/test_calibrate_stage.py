"""What the models say of the labelled rows is checked before anything is fitted."""

import numpy as np
import numpy.typing as npt
import pytest

from cascade_tools.errors import UsageError
from cascade_tools.models.usercode import Rows
from cascade_tools.resources import shipped_cascade
from cascade_tools.spec import Cascade, load_cascade
from cascade_tools.stages.calibrate import check_logits

ROWS = 6


@pytest.fixture
def cascade() -> Cascade:
    return load_cascade(shipped_cascade("digits"))


def labelled(target: list[int] | None = None) -> Rows:
    labels = np.array(target or [0, 1, 2, 0, 1, 2], np.int64)
    return Rows({"X": np.zeros((ROWS, 2), np.float32)}, labels, np.arange(ROWS))


def logits(classes: int = 3) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(ROWS, classes)).astype(np.float32)


def test_fitting_outputs_give_the_number_of_classes(cascade: Cascade) -> None:
    assert check_logits(cascade, {"tiny": logits(), "giant": logits()}, labelled()) == 3


def test_another_number_of_classes_names_both_tiers(cascade: Cascade) -> None:
    with pytest.raises(UsageError, match=r"tiers\.giant: gives 4 classes, tier tiny gives 3"):
        check_logits(cascade, {"tiny": logits(), "giant": logits(4)}, labelled())


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 3, 2), (ROWS - 1, 3), (ROWS, 0)])
def test_outputs_of_another_shape_name_the_tier_and_the_shape(
    cascade: Cascade, shape: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match=r"tiers\.tiny: must give logits \[rows, classes\]"):
        check_logits(cascade, {"tiny": np.zeros(shape, np.float32)}, labelled())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_name_the_tier_and_count_the_rows(cascade: Cascade, value: float) -> None:
    broken = logits()
    broken[2, 1] = broken[4, :] = value
    with pytest.raises(UsageError, match=r"tiers\.giant: 2 of 6 rows of data\.validation give NaN"):
        check_logits(cascade, {"tiny": logits(), "giant": broken}, labelled())


@pytest.mark.parametrize("target", [[0, 1, 2, 3, 0, 1], [-1, 0, 1, 2, 0, 1]])
def test_labels_out_of_range_name_the_field_and_the_range(cascade: Cascade, target: list[int]) -> None:
    with pytest.raises(UsageError, match=r"data\.validation: target has labels .* 3 classes: 0 to 2"):
        check_logits(cascade, {"tiny": logits()}, labelled(target))

"""Imports of the optional packages that bring models."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from cascade_tools.errors import EnvironmentLacks
from cascade_tools.models.torchvision_import import make_torchvision_importable
from cascade_tools.models.usercode import one_line


def import_extra(package: str, extra: str, field: str) -> Any:
    """Import a package of an optional extra.

    Raises:
        EnvironmentLacks: it is not installed, or does not import.
    """
    hint = f"pip install 'cascade-tools[{extra}]'"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make_torchvision_importable()
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise EnvironmentLacks(f"{field}: {package} needs {error.name}, which is missing", hint) from None
        raise EnvironmentLacks(f"{field}: needs {package}, which is not installed", hint) from None
    except (ImportError, RuntimeError) as error:
        raise EnvironmentLacks(
            f"{field}: {package} does not import: {one_line(error)}",
            f"{hint}; torch and torchvision must come from the same index",
        ) from None

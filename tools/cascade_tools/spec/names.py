"""Names, paths and addresses in a spec: checked before they reach a file, a config or a socket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TIMM = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_TENSOR = re.compile(r"[!-~]{1,200}")
ADDRESS = re.compile(r"[\w.-]+:(\d{1,5})|\[[0-9a-fA-F:]+\]:(\d{1,5})")  # of a server
LARGEST_PORT = 65535


def _check_name(name: str) -> str:
    # Names become model names, folders and metric labels, so nothing in them may need quoting.
    if len(name) > 40 or not _NAME.fullmatch(name):
        raise ValueError(
            "must be lower-case letters, digits and single hyphens, begin with a letter, "
            "and have at most 40 characters"
        )
    return name


def _check_callable(reference: str) -> str:
    if not CALLABLE.fullmatch(reference):
        raise ValueError("must be 'module:callable' or 'package.module:callable'")
    return reference


def check_inside(path: str) -> str:
    """The path, if it is relative and stays inside the folder that it starts in.

    Raises:
        ValueError: it does not.
    """
    if len(path) > 200 or "\0" in path:
        raise ValueError("must be a path of at most 200 characters")
    parts = Path(path).parts
    if Path(path).is_absolute() or ".." in parts:
        raise ValueError("must be a relative path inside the cascade's folder")
    return path


def _check_model(name: str) -> str:
    if len(name) > 200 or not _MODEL.fullmatch(name):
        raise ValueError("must be the name of a Triton model: letters, digits and _ . -, at most 200")
    return name


def _check_tensor(name: str) -> str:
    if not _TENSOR.fullmatch(name):
        raise ValueError("must be the name of a tensor: 1 to 200 ASCII characters without spaces")
    return name


def _check_timm(name: str) -> str:
    if len(name) > 100 or not _TIMM.fullmatch(name):
        raise ValueError("must be the name of a timm model, such as vit_tiny_patch16_224")
    return name


def _check_absolute(path: str) -> str:
    if len(path) > 1000 or "\0" in path or not Path(path).is_absolute():
        raise ValueError("must be an absolute path; for one in the cascade's folder there is 'repository'")
    return path


def _check_address(url: str) -> str:
    found = ADDRESS.fullmatch(url)
    if found is None or int(found.group(found.lastindex or 1)) > LARGEST_PORT:
        raise ValueError("must be host:port of the gRPC endpoint, without http://, such as 127.0.0.1:8001")
    return url


Name = Annotated[str, AfterValidator(_check_name)]
CallableName = Annotated[str, AfterValidator(_check_callable)]
InnerPath = Annotated[str, AfterValidator(check_inside)]
ModelName = Annotated[str, AfterValidator(_check_model)]
TensorName = Annotated[str, AfterValidator(_check_tensor)]
TimmName = Annotated[str, AfterValidator(_check_timm)]
AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]
Address = Annotated[str, AfterValidator(_check_address)]

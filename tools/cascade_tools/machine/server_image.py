"""What a server image holds, asked without starting it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

TENSORRT = "TRT_VERSION"  # set in NVIDIA's images
OWN = (
    "CASCADE_SERVER_TENSORRT"  # where a user says it; other images of NVIDIA have a TRT_VERSION of their own
)
TIMEOUT_S = 20.0


def tensorrt_of(image: str) -> str | None:
    """TensorRT's version in an image: four numbers; None where it cannot be told.

    Users can say it by `CASCADE_SERVER_TENSORRT`. Else Docker is asked, which knows the environment of an
    image that was pulled.
    """
    own = os.environ.get(OWN)
    if own:
        return without_build(own)
    if shutil.which("docker") is None:
        return None
    command = ["docker", "image", "inspect", "--format", "{{json .Config.Env}}", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        lines = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return version_in(lines) if isinstance(lines, list) else None


def version_in(environment: list[str]) -> str | None:
    """The version that an image's environment names, as lines `NAME=value`."""
    values = dict(line.split("=", 1) for line in environment if "=" in line)
    found = values.get(TENSORRT)
    return without_build(found) if found else None


def without_build(version: str) -> str:
    """`10.9.0.34+cuda12.8` without what it was built with."""
    return version.partition("+")[0]

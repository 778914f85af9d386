"""Exports a torch module with `torch.export`, with a free batch dimension."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from cascade_tools.artifacts import InputSpec
from cascade_tools.models.head import OUTPUTS
from cascade_tools.models.to_onnx import LARGEST_BATCH, quiet, zeros
from cascade_tools.models.usercode import blame_user_code

if TYPE_CHECKING:
    import torch

NAMES = "cascade.json"  # in the archive; see `backends/torch_session.py`


@dataclass(frozen=True)
class TorchProgram:
    """An exported program; it takes tensors in the order of `inputs` and gives them in that of `outputs`."""

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def to_pt2(
    module: torch.nn.Module, inputs: tuple[InputSpec, ...], field: str, outputs: Sequence[str] = OUTPUTS
) -> TorchProgram:
    """The program of a module in memory.

    Args:
        module: called with one tensor per input; gives a tuple of tensors.
        inputs: names, types and shapes without the batch.
        field: of the cascade's spec, for the message.
        outputs: names of what it gives; more than it gives do no harm.

    Raises:
        UsageError: the module does not run or does not export; its own line is named.
    """
    import torch

    example = tuple(torch.from_numpy(zeros(spec, rows=2)) for spec in inputs)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with quiet(), blame_user_code(f"{field}: torch.export"), torch.no_grad():
        program = torch.export.export(
            module, example, dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)}
        )
        count = len(program.graph_signature.user_outputs)
    return TorchProgram(program, tuple(spec.name for spec in inputs), tuple(outputs[:count]))


def write_pt2(program: TorchProgram, path: Path) -> None:
    """Write a program with the names of its inputs and outputs to a new file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    import torch

    names = {"inputs": program.inputs, "outputs": program.outputs}
    with path.open("wb") as file, quiet():
        target = _Patient(file)
        torch.export.save(program.program, cast(IO[bytes], target), extra_files={NAMES: json.dumps(names)})
        if target.error is not None:
            raise target.error


class _Patient:
    """A file that keeps an error for later: torch ends the whole process when a write fails."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Write, or remember why not."""
        if self.error is None:
            try:
                self._file.write(content)
                self._file.flush()
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        """Nothing waits."""

"""A torch program with its head, run on the CPU or on a GPU; copied beside the tiers' model.

`torch.export.load` unpickles parts of an archive. It must only be given files that this toolkit wrote itself:
`build-repo` copies them after comparing their digests with those that `export` recorded, and the server reads
them from that repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Arrays = Mapping[str, npt.NDArray[np.generic]]
NAMES = "cascade.json"


class TorchSession:
    """One program on one device.

    Args:
        model: a `.pt2` that `export` wrote.
        threads: of this process on the CPU; None leaves them as they are.
        device: as torch names it, such as `cuda:0`.

    Attributes:
        inputs: names that the program reads.
        outputs: names of what it gives.
    """

    def __init__(self, model: Path, threads: int | None = None, device: str = "cpu") -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        found: dict[str, Any] = {NAMES: ""}
        program = torch.export.load(model, extra_files=found)
        names = json.loads(found[NAMES])
        self.inputs, self.outputs = tuple(names["inputs"]), tuple(names["outputs"])
        self._device = torch.device(device)
        if self._device.type != "cpu":
            # Tensors that are made on the way name their device, too.
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self._module = program.module()

    def run(self, outputs: Sequence[str] | None, inputs: Arrays) -> list[Any]:
        """The wanted outputs of all rows, in the order of their names; None for all."""
        tensors = [torch.from_numpy(inputs[name]).to(self._device) for name in self.inputs]
        with torch.inference_mode():
            found = dict(zip(self.outputs, self._module(*tensors), strict=True))
            return [found[name].cpu().numpy() for name in outputs or self.outputs]

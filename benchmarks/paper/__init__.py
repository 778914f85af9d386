"""The experiments of both papers, run again on our own system; `make paper`.

One file per experiment (`e1_...` to `e8_...`), each with what the paper claims, how it is tried here, and a
function that tries it. `python -m benchmarks.paper --only 1,4 --quick` runs some of them briefly.
"""

from benchmarks.paper import (
    e1_calibration,
    e2_two_models,
    e3_one_gpu,
    e4_other_data,
    e5_skips,
    e6_other_gpu,
    e7_dense_first,
    e8_fewest_devices,
)

EXPERIMENTS = (
    e1_calibration.EXPERIMENT,
    e2_two_models.EXPERIMENT,
    e3_one_gpu.EXPERIMENT,
    e4_other_data.EXPERIMENT,
    e5_skips.EXPERIMENT,
    e6_other_gpu.EXPERIMENT,
    e7_dense_first.EXPERIMENT,
    e8_fewest_devices.EXPERIMENT,
)

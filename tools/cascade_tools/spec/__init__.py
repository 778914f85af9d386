"""`cascade.yaml` and the device file: all that a person writes.

A cascade names the tiers (smallest first), the validation data, the objective and the devices. Everything
else is derived from it and kept in `build/<cascade>/`.
"""

from cascade_tools.spec.base import describe
from cascade_tools.spec.cascade import Cascade, Serving
from cascade_tools.spec.data import NOT_INPUTS, CalibrationChoice, Data, Splits
from cascade_tools.spec.devices import DeviceGroup, Devices, host_numbers
from cascade_tools.spec.goals import BatchTrigger, Gears, Objective
from cascade_tools.spec.load import SPEC_FILE, load_cascade, load_devices
from cascade_tools.spec.names import ADDRESS, LARGEST_PORT, Name
from cascade_tools.spec.placement import PlacementChoice
from cascade_tools.spec.problem import ProblemFile, ProblemTier, RateGoal, load_problem
from cascade_tools.spec.profiling import MOST_INSTANCES, ProfileChoice
from cascade_tools.spec.rates import Histogram, Rates, Slo
from cascade_tools.spec.tiers import SOURCES, Format, Gives, Source, Tier, TritonModels, stage_models

__all__ = [
    "ADDRESS",
    "LARGEST_PORT",
    "MOST_INSTANCES",
    "NOT_INPUTS",
    "SOURCES",
    "SPEC_FILE",
    "BatchTrigger",
    "CalibrationChoice",
    "Cascade",
    "Data",
    "DeviceGroup",
    "Devices",
    "Format",
    "Gears",
    "Gives",
    "Histogram",
    "Name",
    "Objective",
    "PlacementChoice",
    "ProblemFile",
    "ProblemTier",
    "ProfileChoice",
    "RateGoal",
    "Rates",
    "Serving",
    "Slo",
    "Source",
    "Splits",
    "Tier",
    "TritonModels",
    "describe",
    "host_numbers",
    "load_cascade",
    "load_devices",
    "load_problem",
    "stage_models",
]

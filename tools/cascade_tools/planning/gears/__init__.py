"""Gears: which policy serves which arrival rate, on one fixed placement (CascadeServe, sections 3 and 4)."""

from cascade_tools.planning.gears.allowance import GearChoice, choose_gears
from cascade_tools.planning.gears.cycle import plan_gears
from cascade_tools.planning.gears.question import Forecast, GearQuestion, PlannedGear, PlannedGears, Trigger
from cascade_tools.planning.gears.rates import RateBins, bins_of_counts, bins_of_shares, zipf_bins

__all__ = [
    "Forecast",
    "GearChoice",
    "GearQuestion",
    "PlannedGear",
    "PlannedGears",
    "RateBins",
    "Trigger",
    "bins_of_counts",
    "bins_of_shares",
    "choose_gears",
    "plan_gears",
    "zipf_bins",
]

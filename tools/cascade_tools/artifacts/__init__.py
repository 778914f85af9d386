"""The types that flow from stage to stage, as they stand on disk.

All are frozen and refuse unknown fields. `made_from` holds the digest of everything that a stage read, by
name; `cascade-tools status` compares it with what is there now.
"""

from cascade_tools.artifacts.base import Artifact
from cascade_tools.artifacts.calibration import (
    AdoptedCall,
    AdoptedInput,
    AdoptedModel,
    AdoptedTier,
    CalibratedTier,
    Calibration,
    InputSpec,
    Labels,
    Reliability,
    ReliabilityBin,
    Signal,
)
from cascade_tools.artifacts.exported import (
    Exported,
    ExportedFile,
    ExportedStage,
    ExportedTier,
    HalfPrecision,
    Partition,
    TensorRTPlan,
)
from cascade_tools.artifacts.gear_plan import (
    FallbackGears,
    Gear,
    GearPlan,
    Hysteresis,
    LadderTier,
    RouterLimits,
)
from cascade_tools.artifacts.placement import Lost, PlacedDevice, PlacedInstances, Placement
from cascade_tools.artifacts.policy import (
    Frontier,
    PolicyTable,
    PredictedPolicy,
    Recalibrated,
    Route,
    RoutingPolicy,
    Spread,
)
from cascade_tools.artifacts.profile import (
    INLINE_ENTRY_MS,
    LOCAL_FORMATS,
    AskCost,
    Figure,
    Hop,
    Origin,
    Profile,
    ProfilePoint,
    RouterCost,
    TimedBy,
    UtilizationBy,
)
from cascade_tools.artifacts.score import Score, ServedScore, TierScore
from cascade_tools.artifacts.scores import FloatArray, IntArray, ScoreTable

__all__ = [
    "INLINE_ENTRY_MS",
    "LOCAL_FORMATS",
    "AdoptedCall",
    "AdoptedInput",
    "AdoptedModel",
    "AdoptedTier",
    "Artifact",
    "AskCost",
    "CalibratedTier",
    "Calibration",
    "Exported",
    "ExportedFile",
    "ExportedStage",
    "ExportedTier",
    "FallbackGears",
    "Figure",
    "FloatArray",
    "Frontier",
    "Gear",
    "GearPlan",
    "HalfPrecision",
    "Hop",
    "Hysteresis",
    "InputSpec",
    "IntArray",
    "Labels",
    "LadderTier",
    "Lost",
    "Origin",
    "Partition",
    "PlacedDevice",
    "PlacedInstances",
    "Placement",
    "PolicyTable",
    "PredictedPolicy",
    "Profile",
    "ProfilePoint",
    "Recalibrated",
    "Reliability",
    "ReliabilityBin",
    "Route",
    "RouterCost",
    "RouterLimits",
    "RoutingPolicy",
    "Score",
    "ScoreTable",
    "ServedScore",
    "Signal",
    "Spread",
    "TensorRTPlan",
    "TierScore",
    "TimedBy",
    "UtilizationBy",
]

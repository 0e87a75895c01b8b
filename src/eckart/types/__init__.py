"""Plain data that every room may hold: no behaviour, no I/O, and no import from the rest of Eckart.

One word for one thing: see the glossary in CONTRIBUTING.md.
"""

from eckart.types.analysis import Analysis, Basis, Cosine, Matrix, SavedBases, Size, Tied
from eckart.types.comparison import Comparison, ComparisonRow
from eckart.types.described import Described
from eckart.types.errors import EckartError, ExistsError, UsageError, in_one_line, unknown
from eckart.types.manifest import (
    MANIFEST,
    Bytes,
    Candidate,
    Count,
    HeldOut,
    Learned,
    Manifest,
    Probe,
    ProbeInput,
    Result,
    TargetRecord,
    TrainingRecord,
)
from eckart.types.numbers import Curve, Moment, Option, Quantize, Spectrum, Target
from eckart.types.recipe import Recipe, RecoveryRecipe, Selection
from eckart.types.shown import Shown
from eckart.types.speed import Memory, Pace, Race
from eckart.types.sweep import Cell, Sample, Step, Sweep
from eckart.types.texts import (
    MAX_LENGTH,
    ON,
    SAMPLE_TOKENS,
    SAMPLES,
    Message,
    On,
    Text,
    Track,
    require_on,
    silent,
)

__all__ = [
    "MANIFEST",
    "MAX_LENGTH",
    "ON",
    "SAMPLES",
    "SAMPLE_TOKENS",
    "Analysis",
    "Basis",
    "Bytes",
    "Candidate",
    "Cell",
    "Comparison",
    "ComparisonRow",
    "Cosine",
    "Count",
    "Curve",
    "Described",
    "EckartError",
    "ExistsError",
    "HeldOut",
    "Learned",
    "Manifest",
    "Matrix",
    "Memory",
    "Message",
    "Moment",
    "On",
    "Option",
    "Pace",
    "Probe",
    "ProbeInput",
    "Quantize",
    "Race",
    "Recipe",
    "RecoveryRecipe",
    "Result",
    "Sample",
    "SavedBases",
    "Selection",
    "Shown",
    "Size",
    "Spectrum",
    "Step",
    "Sweep",
    "Target",
    "TargetRecord",
    "Text",
    "Tied",
    "Track",
    "TrainingRecord",
    "UsageError",
    "in_one_line",
    "require_on",
    "silent",
    "unknown",
]

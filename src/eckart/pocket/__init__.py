"""The pocket model: a small language model of our own, its data generator and its graders."""

from __future__ import annotations

from pathlib import Path

from eckart.pocket.generator import samples
from eckart.pocket.sample import SKILLS, SPLITS, Sample, split_of

MODEL_DIR: Path = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR", "SKILLS", "SPLITS", "Sample", "samples", "split_of"]

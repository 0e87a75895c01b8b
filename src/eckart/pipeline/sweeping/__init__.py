"""LASER: chosen weights of one loaded model truncated in place, measured, and put back."""

from eckart.pipeline.sweeping.running import sweep

__all__ = ["sweep"]

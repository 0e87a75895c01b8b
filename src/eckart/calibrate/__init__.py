"""Watch a model run on data and add up what its targets read. It does not know what the sums are for."""

from eckart.calibrate.watch import Observed, PaddingUnknownError, watch

__all__ = ["Observed", "PaddingUnknownError", "watch"]

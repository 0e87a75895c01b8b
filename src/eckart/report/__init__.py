"""Plain data in, pages and pictures out.

It reads no file but its own, writes none, and imports matplotlib only when it draws.
"""

from eckart.report.analysis import analysis_page
from eckart.report.comparison import comparison_page
from eckart.report.compression import compression_page
from eckart.report.plot import draw
from eckart.report.sweep import sweep_page

__all__ = ["analysis_page", "comparison_page", "compression_page", "draw", "sweep_page"]

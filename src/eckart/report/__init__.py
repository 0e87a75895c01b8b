"""Plain data in, pages and pictures out.

It reads no file but its own, writes none, and imports matplotlib only when it draws.
"""

from eckart.report.analysis import analysis_page
from eckart.report.comparison import comparison_page
from eckart.report.compression import compression_page
from eckart.report.pictures import analysis_pictures, compression_pictures
from eckart.report.plot import draw
from eckart.report.sweep import sweep_page

__all__ = [
    "analysis_page",
    "analysis_pictures",
    "comparison_page",
    "compression_page",
    "compression_pictures",
    "draw",
    "sweep_page",
]

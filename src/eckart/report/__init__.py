"""Numbers in, pictures out. It reads no file, writes none, and imports matplotlib only when it draws."""

from eckart.report.plot import draw

__all__ = ["draw"]

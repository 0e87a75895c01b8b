"""The engine: observe, decide, cut, refit, refine, quantize, write."""

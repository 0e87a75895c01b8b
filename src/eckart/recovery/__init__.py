"""Training after the cut: on what, in which order, on which parameters, and going on after a kill."""

"""Many methods under one protocol."""

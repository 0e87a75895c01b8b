"""The three skills of the pocket model: how their samples are drawn."""

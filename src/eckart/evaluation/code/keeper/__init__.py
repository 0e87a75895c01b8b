"""The process that runs generated programs behind walls: a program of its own, `python keeper …`."""

"""One file for each kind of task, and the table of all of them."""

from eckart.evaluation.tasks.table import HARNESS, POCKET, TASKS, Task, find_task

__all__ = ["HARNESS", "POCKET", "TASKS", "Task", "find_task"]

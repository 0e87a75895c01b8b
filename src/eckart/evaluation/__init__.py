"""A model in, numbers out. Each task is a function from a request to a `Score`; the table has them all."""

from eckart.evaluation.asking import Request, Settings
from eckart.evaluation.divergence import Moved, Reference
from eckart.evaluation.score import Score, lower_is_better
from eckart.evaluation.tasks import TASKS, Task, find_task
from eckart.evaluation.tasks.perplexity import perplexity
from eckart.evaluation.tasks.stsb import stsb

__all__ = [
    "TASKS",
    "Moved",
    "Reference",
    "Request",
    "Score",
    "Settings",
    "Task",
    "find_task",
    "lower_is_better",
    "perplexity",
    "stsb",
]

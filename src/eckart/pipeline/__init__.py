"""The jobs, from end to end. This room knows everyone and computes nothing."""

from eckart.analysis.bases import Bases
from eckart.compression.folder.verification import Verdict
from eckart.estimate.adapters import LoraPlan, plan_lora
from eckart.estimate.planned import Plan, PlannedSite
from eckart.evaluation.measuring import TASKS
from eckart.integrations.exports import Exported
from eckart.pipeline.analyze import Analyzed, analyze, analyzed
from eckart.pipeline.bases import bases
from eckart.pipeline.bench import bench
from eckart.pipeline.compare import compare
from eckart.pipeline.compress import compress
from eckart.pipeline.demo import demo
from eckart.pipeline.evaluate import evaluate
from eckart.pipeline.export import export
from eckart.pipeline.plan import dry_run, plan
from eckart.pipeline.push import Pushed, push, require_pushable
from eckart.pipeline.recover import recover
from eckart.pipeline.report import describe
from eckart.pipeline.sweep import sweep
from eckart.pipeline.verify import verify

__all__ = [
    "TASKS",
    "Analyzed",
    "Bases",
    "Exported",
    "LoraPlan",
    "Plan",
    "PlannedSite",
    "Pushed",
    "Verdict",
    "analyze",
    "analyzed",
    "bases",
    "bench",
    "compare",
    "compress",
    "demo",
    "describe",
    "dry_run",
    "evaluate",
    "export",
    "plan",
    "plan_lora",
    "push",
    "recover",
    "require_pushable",
    "sweep",
    "verify",
]

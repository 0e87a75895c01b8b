"""Training runs during or after a cut: their examples, length, work folder and record."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eckart import folders
from eckart.data import digest_of, is_built_in
from eckart.recovery import distillation, learning, order, processes, windows
from eckart.recovery.keeping import Checkpoints
from eckart.recovery.objective import Objective, cross_entropy
from eckart.recovery.settings import Training
from eckart.recovery.windows import Example
from eckart.types import Text, Track, TrainingRecord, UsageError, silent

if TYPE_CHECKING:
    from eckart.recovery.training import Trained

REQUEST = "request.json"
POINTS = 200
"""Losses that a manifest holds at most."""


class TrainingSetup:
    """Examples, objective, settings and checkpoint folder of the training runs of one model.

    A model that writes learns the labels, unless it has a teacher to imitate.

    Args:
        data: where the texts are from.
        work: a folder for checkpoints; each run has one of its own in it.
        resume: go on from the last checkpoint of a run.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        data: str,
        texts: Sequence[Text],
        training: Training,
        work: Path,
        resume: bool = False,
        track: Track = silent,
    ) -> None:
        self.tokenizer, self.data, self.training, self.work = tokenizer, data, training, work
        self.resume, self.track = resume, track
        self.examples = windows.read(model, tokenizer, texts, training.max_length, training.end)
        self.teacher: Any = None
        self.teacher_name: str | None = None
        self.objective: Objective = cross_entropy

    @classmethod
    def before_cut(cls, model: Any, *rest: Any) -> TrainingSetup:
        """The setup for a model yet to be cut: one that writes nothing imitates itself as it was."""
        setup = cls(model, *rest)
        if not model.can_generate():
            setup.imitate(copy.deepcopy(model), "the dense model", distillation.Distillation())
        return setup

    def imitate(self, teacher: Any, name: str, objective: distillation.Distillation) -> None:
        """Learn to answer as the teacher does."""
        self.teacher, self.teacher_name, self.objective = teacher, name, objective

    def recover(self, model: Any, training: Training | None = None) -> tuple[Any, TrainingRecord]:
        """Train what was cut; the model then, adapters merged."""
        training = training or self.training
        done = learning.choose(model, training)
        run = self.run(model, training, "recovery")
        return done(), run

    def run(self, model: Any, training: Training, purpose: str, **method: Any) -> TrainingRecord:
        """Train what requires a gradient, and say what it came to.

        Args:
            method: fields of `recovery.training.TrainingMethod` in which this run differs.
        """
        # transformers' Trainer takes a second to import, and most cuts are not trained.
        from eckart.recovery.training import TrainingMethod, train

        trained = train(
            model,
            self.tokenizer,
            self.examples.rows,
            training,
            workdir=self.work / purpose,
            method=TrainingMethod(**{"objective": self.objective, "teacher": self.teacher, **method}),
            resume=self.resume,
            track=self.track,
        )
        objective = self.objective
        return TrainingRecord(
            purpose=purpose,
            settings=training.model_dump(exclude_none=True),
            data=self.data if is_built_in(self.data) else Path(self.data).name,
            data_sha256=digest_of(self.data),
            teacher=self.teacher_name,
            objective=asdict(objective) if isinstance(objective, distillation.Distillation) else None,
            examples=len(self.examples.rows),
            steps=trained.steps,
            tokens=trained.tokens,
            losses=_thinned(trained),
            notes=self.examples.notes,
        )


def training_tokens(examples: Sequence[Example], training: Training) -> int:
    """Number of tokens that a run reads."""
    sizes = [len(example) for example in examples]
    return sum(sizes[index] for step in order.plan(sizes, training) for index in step)


def _has_checkpoints(work: Path) -> bool:
    return any(Checkpoints(folder).latest() for folder in (work, *work.glob("*/")))


@contextmanager
def working_folder(
    work: Path, request: dict[str, Any], resume: bool, begun: Callable[[Path], bool] = _has_checkpoints
) -> Iterator[None]:
    """Work folder beside `out`: it holds the request, and stays only where it can be resumed from.

    Args:
        begun: whether a folder holds something to go on from.

    Raises:
        UsageError: a process that lives works in it, it is there and nobody said to resume, or it is of
            another request.
    """
    if not processes.leads():
        yield
        return
    request = json.loads(json.dumps(request))
    there = work.exists() or work.is_symlink()
    if there and not work.is_dir():
        _require_same(work, request, resume)
    work.mkdir(parents=True, exist_ok=True)
    with folders.owned(work):
        if there:
            _require_same(work, request, resume)
        try:
            folders.replace_file(work / REQUEST, json.dumps(request, indent=1).encode())
            yield
        except BaseException:
            if not begun(work):
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _require_same(work: Path, request: dict[str, Any], resume: bool) -> None:
    if not resume:
        raise UsageError(
            f"{work} is there already, from a run that was stopped: go on with it (--resume), or remove it"
        )
    try:
        before = json.loads((work / REQUEST).read_text())
    except (OSError, ValueError):
        raise UsageError(f"{work} does not say what was asked for: remove it and start again") from None
    changed = [name for name in request if before.get(name) != request[name]]
    if changed:
        said = ", ".join(name.replace("_", "-") for name in changed)
        raise UsageError(
            f"{work} is of another request: {said} changed. Ask for the same again, or remove it and "
            "start anew"
        )


def _thinned(trained: Trained) -> list[tuple[int, float]]:
    """So few losses that a manifest may hold them, each the mean of the steps since the one before."""
    losses: Sequence[tuple[int, float]] = trained.losses
    width = -(-len(losses) // POINTS)
    groups = [losses[at : at + width] for at in range(0, len(losses), width)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]

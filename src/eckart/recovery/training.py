"""The training loop: transformers' Trainer with an objective, checkpoints and a log of its own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from eckart import folders
from eckart.model import text
from eckart.model.quietness import quiet
from eckart.recovery import keeping, order, processes
from eckart.recovery.distillation import without_dropout
from eckart.recovery.objective import Objective, cross_entropy
from eckart.recovery.settings import Training
from eckart.recovery.windows import Collator, Example
from eckart.types import EckartError, Track, silent

LOG = "training.jsonl"
SHARE = 10
MOST_STEPS = 500
"""Steps between checkpoints, unless told otherwise: a tenth of all, at most so many."""

Groups = Callable[[Any], list[dict[str, Any]]]
"""`groups(model)`: parameters with a learning rate, or another setting of the optimizer, of their own."""


@dataclass(frozen=True)
class TrainingMethod:
    """What a run minimises, and what goes along with it.

    Attributes:
        objective: `(model, teacher, batch)` to a summed loss and its count.
        teacher: the model that is imitated, handed to the objective.
        callbacks: transformers' own.
        parameter_groups: parameters with settings of their own; the rest has the run's.
        keeps: whether there are checkpoints and a log; a short run needs none, and writes nothing.
    """

    objective: Objective = cross_entropy
    teacher: Any = None
    callbacks: Sequence[TrainerCallback] = ()
    parameter_groups: Groups | None = None
    keeps: bool = True


@dataclass(frozen=True)
class Trained:
    """What a run came to.

    Attributes:
        steps: that were made, those before a kill too.
        tokens: real tokens that the model read in them.
        losses: `(step, loss)` of each step, in nats a token.
        seconds: wall time, that before a kill too.
    """

    steps: int
    tokens: int
    losses: list[tuple[int, float]]
    seconds: float


def train(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    training: Training,
    *,
    workdir: Path,
    method: TrainingMethod | None = None,
    resume: bool = False,
    track: Track = silent,
) -> Trained:
    """Train a model's parameters that require a gradient, in place; it is left in evaluation mode.

    A step's loss is the sum over all its tokens by their number, whatever the number of passes and of
    processes. What the state of a run is made of is saved every so many steps: parameters that learn,
    persistent buffers, optimizer, schedule, random generators.

    Args:
        model: float32, on its device.
        examples: what `windows.read` gives.
        workdir: for checkpoints and `training.jsonl`, a line for each step: `step`, `loss`, `lr`, `tokens`
            and `seconds` so far.
        method: default cross entropy of the labels.
        resume: go on from the last checkpoint in `workdir`, where there is one.

    Raises:
        UsageError: the batch cannot be shared among the processes.
        EckartError: a loss or a gradient that is not finite: says at which step, and which checkpoint is
            the last good one.
    """
    method = method or TrainingMethod()
    passes = processes.windows_a_pass(training.batch, training.accumulate)
    steps = order.plan([len(example) for example in examples], training)
    kept = keeping.Checkpoints(workdir)
    if processes.leads():
        workdir.mkdir(parents=True, exist_ok=True)
        kept.sweep()
    start = kept.latest() if resume else None
    log = _Log(
        workdir / LOG if method.keeps else None,
        [sum(len(examples[index]) for index in step) for step in steps],
    )
    arguments = _arguments(model, training, workdir, len(steps), passes)
    if not method.keeps:
        arguments.save_strategy = IntervalStrategy.NO
    undropped = nullcontext() if method.teacher is None else without_dropout(model)
    with quiet(), _prepared(model, method.teacher, training), undropped:
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=_Stream(examples, steps),
            data_collator=Collator(model, text.padding_id(tokenizer)),
            callbacks=[_Bar(track), *method.callbacks],
            method=method,
            kept=kept,
            log=log,
        )
        trainer.run(start)
    return Trained(len(log.lines), log.lines[-1]["tokens"], log.losses, log.lines[-1]["seconds"])


class _Stream(Dataset[Example]):
    """The examples of all steps, one after another: the order is in the steps, and the Trainer reads on."""

    def __init__(self, examples: Sequence[Example], steps: list[list[int]]) -> None:
        self.examples = examples
        self.order = [index for step in steps for index in step]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, at: int) -> Example:
        return self.examples[self.order[at]]


def _arguments(model: Any, training: Training, workdir: Path, steps: int, passes: int) -> TrainingArguments:
    device = model.device
    arguments = TrainingArguments(
        output_dir=str(workdir),
        max_steps=steps,
        per_device_train_batch_size=passes,
        gradient_accumulation_steps=training.accumulate,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule if training.schedule != "constant" else "constant_with_warmup",
        warmup_steps=int(training.warmup * steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.clip,
        seed=training.seed,
        bf16=training.precision == "bf16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.save_every or max(1, min(math.ceil(steps / SHARE), MOST_STEPS)),
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        # An expert that no token went to, or a pooler that the loss does not ask for, has no gradient.
        ddp_find_unused_parameters=True,
        use_cpu=device.type == "cpu",
        report_to="none",
        disable_tqdm=True,
    )
    # One process has one device: several GPUs in one process would be torch's old DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextmanager
def _prepared(model: Any, teacher: Any, training: Training) -> Iterator[None]:
    """What training needs of the models, and afterwards all as it was."""
    cached = [
        (one, one.config.use_cache) for one in (model, teacher) if hasattr(one and one.config, "use_cache")
    ]
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        for one, _ in cached:
            one.config.use_cache = False
        yield
    finally:
        if training.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        for one, value in cached:
            one.config.use_cache = value
        model.eval()


class _Trainer(Trainer):
    """Transformers' Trainer with Eckart's loss, checkpoints and log."""

    model: Any
    args: Any
    objective: Objective

    def __init__(self, *, method: TrainingMethod, kept: keeping.Checkpoints, log: _Log, **rest: Any) -> None:
        super().__init__(**rest)
        self.remove_callback(PrinterCallback)
        self.objective, self.teacher = method.objective, method.teacher
        self.parameter_groups = method.parameter_groups
        self.kept, self.lines = kept, log
        if self.teacher is not None:
            self.teacher.eval()
            self.teacher = self.accelerator.prepare_model(self.teacher, evaluation_mode=True)
        # Of one step: the summed loss so far, and over how many tokens.
        self.sums = torch.zeros(2, dtype=torch.float32, device=self.args.device)

    def run(self, start: Path | None) -> None:
        """Train from the beginning, or from a checkpoint."""
        try:
            self.lines.begin(0 if start is None else int(start.name.removeprefix(keeping.PREFIX)))
            self.train(resume_from_checkpoint=None if start is None else str(start))
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, _Bar):
                    callback.close()
            # Autocast was put around the models' own forward.
            for one in (self.model, self.teacher):
                if one is not None and "_original_forward" in vars(one):
                    del one.forward, one._original_forward

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> None:
        # The objective counts: it knows what its loss is a sum over.
        return None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Gradients of summed losses; behind a step's last pass they are divided by the count of all."""
        model.train()
        student = model if model is self.model else _Student(model, self.model)
        loss, count = self.objective(student, self.teacher, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        self.sums += torch.stack([loss.detach().float(), loss.new_tensor(count, dtype=torch.float32)])
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(self.sums[0])
        total, counted = self.accelerator.reduce(self.sums, "sum")
        self.sums = torch.zeros_like(self.sums)
        mean: Tensor = total / counted
        if not torch.isfinite(mean):
            raise self._not_finite("the loss")
        # Processes have averaged their gradients.
        factor = self.accelerator.num_processes / counted
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        torch._foreach_mul_(gradients, factor)
        return mean

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(norm):
            raise self._not_finite("the gradient")
        return norm

    def _not_finite(self, what: str) -> EckartError:
        good = self.kept.latest()
        last = f"the last good state is {good}" if good else "there is no checkpoint before it"
        return EckartError(
            f"{what} is not finite at step {self.state.global_step + 1}; {last}. Start again with a lower "
            "--learning-rate" + (", or with --precision float32" if self.args.bf16 else "")
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """As ever; parameters with settings of their own go into groups of their own."""
        if self.optimizer is not None or self.parameter_groups is None:
            return super().create_optimizer(model)
        groups = self.parameter_groups(self.model)
        own = {id(parameter) for group in groups for parameter in group["params"]}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        both = [{"params": rest, "weight_decay": self.args.weight_decay}, *groups]
        self.optimizer = kind([group for group in both if group["params"]], **options)
        return self.optimizer

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it would walk over all parameters in every pass."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line of the log for each step."""
        if "loss" in logs:
            self.lines.add(self.state.global_step, logs["loss"], logs["learning_rate"])
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        chances = gather_object([keeping.chance()])
        if processes.leads():
            self.kept.write(
                self.state.global_step,
                keeping.model_state(self.model),
                keeping.pack_optimizer(self.optimizer, self.lr_scheduler),
                chances,
                json.dumps(asdict(self.state)),
            )
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        keeping.load_model_state(self.model, keeping.read_model(Path(resume_from_checkpoint)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            packed = keeping.read_optimizer(Path(checkpoint))
            keeping.unpack_optimizer(self.optimizer, self.lr_scheduler, *packed)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            keeping.restore_chance(keeping.read_chance(Path(checkpoint), processes.rank()))


class _Student:
    """A wrapped model (several processes) that an objective calls and asks as if it were not."""

    def __init__(self, wrapper: Any, model: Any) -> None:
        self._wrapper, self._model = wrapper, model

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._wrapper(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Log:
    """What happened at each step, in memory and, in the first process, as a file."""

    def __init__(self, path: Path | None, tokens: list[int]) -> None:
        self.path, self.tokens = path, tokens
        self.lines: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.lines]

    def begin(self, step: int) -> None:
        """Forget what a run that was killed did behind its last checkpoint."""
        if step and self.path:
            whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            self.lines = [line for line in map(json.loads, whole) if line["step"] <= step]
        before = self.lines[-1]["seconds"] if self.lines else 0.0
        self.started = time.perf_counter() - before
        if self.path and processes.leads():
            content = "".join(json.dumps(line) + "\n" for line in self.lines)
            folders.replace_file(self.path, content.encode())

    def add(self, step: int, loss: float, rate: float) -> None:
        seconds = round(time.perf_counter() - self.started, 3)
        read = (self.lines[-1]["tokens"] if self.lines else 0) + self.tokens[step - 1]
        self.lines.append({"step": step, "loss": loss, "lr": rate, "tokens": read, "seconds": seconds})
        if self.path and processes.leads():
            with self.path.open("a") as file:
                file.write(json.dumps(self.lines[-1]) + "\n")


class _Bar(TrainerCallback):
    """Eckart's progress bar, driven step by step."""

    def __init__(self, track: Track) -> None:
        self.track = track if processes.leads() else silent
        self.items: Iterator[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        left = state.max_steps - state.global_step
        self.items = iter(self.track(range(left), "training", left))
        next(self.items, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.items is not None
        next(self.items, None)

    def close(self) -> None:
        """Take it away, also where the run stopped on the way."""
        if self.items is not None:
            with suppress(AttributeError):
                self.items.close()  # type: ignore[attr-defined]
            self.items = None

"""Moments of a model on data: found in the cache, or watched and put there.

A cache that is wrong is worse than none. So the key holds everything that the moments depend on, by its
bytes rather than its name: the weights, the config, the tokens of every window, the targets, what is summed,
what is differentiated, the code that does it and the libraries under it. What is damaged is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eckart import calibrate, checkpoint
from eckart.calibrate import GRADIENT_KINDS, INPUT_KINDS, TEMPERATURE, Observed
from eckart.calibrate.modes import waiting_bytes
from eckart.model import sentences, targets, text
from eckart.types import EckartError, Track, silent

CACHE_BYTES = 4 << 30
"""Moments of all models together on disk at most; those used longest ago go first."""

BACKWARD_TOKENS = 2048
"""In a batch that is differentiated, at most: what a backward pass needs is kept for all of them."""
BACKWARD_BYTES = 2**29
"""That may wait for the backward pass, where a window alone does not take more."""
LOGITS = 6 * 4
"""Bytes of a logit while a loss is worked out and differentiated: six copies in float32."""


@dataclass(frozen=True)
class Gradients:
    """The loss whose gradients are summed, and on how many windows.

    Attributes:
        labels, temperature, seed: as in `calibrate.losses.loss_for`. A model that predicts none of its data's
            tokens (an encoder, a classifier) has no labels there: they are always sampled.
        windows: how many are differentiated, evenly spread; `None` for all.
    """

    labels: str = "sampled"
    temperature: float = TEMPERATURE
    seed: int = 0
    windows: int | None = None


@dataclass(frozen=True)
class MomentCache:
    """Whether moments are kept on disk, and what tells the model from others there.

    Attributes:
        used: whether to look for the moments on disk, and to put them there.
        folder: where the model was loaded from, if it is as it was loaded: its files tell it from others.
            Without it the tensors in memory do.
    """

    used: bool = True
    folder: Path | None = None


def observe(
    model: Any,
    tokenizer: Any,
    windows: Sequence[text.Window],
    names: Sequence[str],
    kinds: frozenset[str],
    *,
    gradients: Gradients | None = None,
    cache: MomentCache | None = None,
    track: Track = silent,
) -> Observed:
    """What the named targets read on the windows, and what a loss says back to them.

    Args:
        windows: each counts once for the inputs.
        kinds: which sums, as `calibrate.watch` names them.
        gradients: the loss; default on labels that the model samples, of all windows.
        cache: default used, for a model that is in memory alone.

    Raises:
        EckartError: a target reads or gets something that is not finite, or in an unknown shape.
    """
    gradients, cache = gradients or Gradients(), cache or MomentCache()
    labels = labels_for(model, gradients.labels)
    head = sentences.head_of(model)
    how = [labels, gradients.temperature, gradients.seed]
    if head is not None:
        how += sentences.fingerprint(model)
    loss = None
    if kinds & GRADIENT_KINDS:
        loss = calibrate.loss_for(labels, gradients.temperature, gradients.seed, head)
    asked = spread(len(windows), gradients.windows if loss else None)
    job = _Job(model, tokenizer, windows, names, kinds, loss, asked, track)
    place = _place(_key(job, cache.folder, how)) if cache.used else None
    if place is None:
        return job.run()
    found = _find(place, model.device)
    if found is None:
        found = job.run()
        _keep(place, found)
    return found


def backward_tokens(model: Any) -> int:
    """Tokens of a batch that is differentiated: fewer of a model with many layers, or many words.

    It depends on the config alone, so that it is the same whatever was replaced in the model already.
    """
    words = getattr(model.config.get_text_config(), "vocab_size", None) or 0
    each = waiting_bytes(model.config, model.dtype.itemsize)
    each += LOGITS * words if model.can_generate() else 0
    return max(1, min(BACKWARD_TOKENS, BACKWARD_BYTES // max(1, each)))


def labels_for(model: Any, labels: str) -> str:
    """Whose labels: a model that predicts none of its data's tokens has to be asked for its own."""
    return labels if text.is_causal(model) or text.is_encoder_decoder(model) else "sampled"


@dataclass
class _Job:
    """Everything that a run needs. `asked` are indices: the windows that are differentiated, if any are."""

    model: Any
    tokenizer: Any
    windows: Sequence[text.Window]
    names: Sequence[str]
    kinds: frozenset[str]
    loss: calibrate.Loss | None
    asked: list[int]
    track: Track

    def run(self) -> Observed:
        try:
            return self._run()
        except calibrate.PaddingUnknownError:
            return self._run(alone=True)

    def _run(self, alone: bool = False) -> Observed:
        asked = set(self.asked)
        first = [window for at, window in enumerate(self.windows) if at in asked]
        rest = [window for at, window in enumerate(self.windows) if at not in asked]
        at_once = backward_tokens(self.model) if self.loss else None
        seen = calibrate.watch(
            self.model,
            self.names,
            self._batches(first, at_once, alone),
            self.kinds,
            self.track,
            loss=self.loss,
            blocks=targets.stacks_of(self.model, self.names),
        )
        inputs = self.kinds & INPUT_KINDS
        if not rest or not inputs:
            return seen
        batches = self._batches(rest, None, alone)
        more = calibrate.watch(self.model, self.names, batches, inputs, self.track, onto=seen)
        tokens = seen.tokens + more.tokens
        return replace(seen, moments={**seen.moments, **more.moments}, tokens=tokens)

    def _batches(self, windows: Sequence[text.Window], tokens: int | None, alone: bool) -> list[text.Batch]:
        """Batches of as many tokens, or of as many as is usual; or a window at a time, so without padding."""
        size: dict[str, Any] = {"batch_tokens": 1} if alone else {"batch_tokens": tokens} if tokens else {}
        return text.batches(self.model, self.tokenizer, windows, said=text.answers(self.windows), **size)


def spread(count: int, wanted: int | None) -> list[int]:
    """Indices of so many windows, evenly over all; at least one."""
    wanted = count if wanted is None else min(count, max(1, wanted))
    return [at * count // wanted for at in range(wanted)]


def _key(job: _Job, folder: Path | None, loss: list[Any]) -> str:
    model = job.model
    code = [*sorted(Path(calibrate.__file__).parent.glob("*.py")), Path(text.__file__)]
    whole = {
        "code": checkpoint.sha256_of(code),
        "versions": {name: version(name) for name in ("eckart", "torch", "transformers")},
        "model": _weights(model) if folder is None else checkpoint.sha256_of(_model_files(folder)),
        "runs": [str(model.dtype), model.device.type, getattr(model.config, "_attn_implementation", None)],
        # What a tokenizer does, and how long a window may be, is in the windows.
        "windows": checkpoint.json_digest([window.ids, window.labels, window.said] for window in job.windows),
        "padding": text.padding_id(job.tokenizer),
        "batches": [backward_tokens(model), text.batches.__defaults__],
        "names": list(job.names),
        "kinds": sorted(job.kinds),
        "loss": [*loss, job.asked] if job.loss else None,
    }
    return checkpoint.json_digest([whole])


def _model_files(folder: Path) -> list[Path]:
    return [*checkpoint.open_checkpoint(folder).files, folder / "config.json"]


def _weights(model: Any) -> list[Any]:
    config = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version")
    }
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [type(model).__name__, json.dumps(config, sort_keys=True, default=str), checkpoint.digest(tensors)]


def _place(key: str) -> Path | None:
    try:
        return checkpoint.cache_dir() / "moments" / f"{key}.safetensors"
    except RuntimeError:
        return None


def _find(place: Path, device: Any) -> Observed | None:
    """What is in the cache, if it is whole and what its name says."""
    try:
        tensors, words = checkpoint.read_tensors(place)
        if words["key"] != place.stem:
            return None
        found = calibrate.unpack(tensors, words["observed"], device)
    except (EckartError, OSError, ValueError, KeyError, TypeError):
        return None
    with suppress(OSError):
        os.utime(place)
    return found


def _keep(place: Path, observed: Observed) -> None:
    """Put it in the cache, if it is not too large and the cache can be written."""
    tensors, words = calibrate.pack(observed)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    if needed > CACHE_BYTES:
        return
    with suppress(EckartError, OSError):
        _make_room(place.parent, CACHE_BYTES - needed)
        checkpoint.write_tensors(place, tensors, {"key": place.stem, "observed": words})


def _make_room(folder: Path, limit: int) -> None:
    """Remove what was used longest ago, until no more than `limit` bytes are left.

    What a run that was killed left half written has the same suffix, and so it goes too.
    """
    found = []
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):
            state = path.lstat()
            found.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        with suppress(OSError):
            path.unlink()
            total -= size

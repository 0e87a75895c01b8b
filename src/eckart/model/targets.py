"""Which weights of a model may be replaced.

A target is an `nn.Linear`, or GPT-2's `Conv1D`, that stands alone: its weight is not tied to another
module's, its model calls it rather than reading its weight, and it computes nothing else. By default the
ones inside the blocks. An expert of a mixture is one too, once the tensor that holds all experts is unrolled.
The embedding of tokens is one where it is named, and with it the head that is tied to it, as one weight.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eckart.model import probe, sentences, vocabulary
from eckart.model.mixtures import find_stacks, is_expert
from eckart.model.portable.experts import unroll
from eckart.types import Target, UsageError

_TIED = "its weight is tied to another module's"
_READ = "its model reads the weight without calling the module"
LONGEST_RANGE = 1000
_MORE = "it computes something else than a linear layer does"


@dataclass
class Found:
    """The targets of a model in the model's order, and what was left alone, in words."""

    targets: list[Target]
    notes: list[str] = field(default_factory=list)


def find_targets(model: Any, patterns: Sequence[str] | None = None, layers: str | None = None) -> Found:
    """Discover the targets of any transformers model; it may be on the meta device.

    Expert tensors that hold chosen weights are unrolled in the model: an expert is then a linear layer of its
    own, and the model computes what it did.

    Args:
        patterns: endings of module names at a dot (`q_proj`, `mlp.up_proj`) or globs; default every
            linear inside the blocks, experts among them (`experts.down_proj` is all of them in a block).
            Heads, the
            embedding and everything outside the blocks come only by name.
        layers: which blocks of each stack, e.g. `top:4`, `bottom:2`, `3-7`, `0,2,5-8`; default all.

    Raises:
        UsageError: a pattern or a choice of layers that fits nothing.
    """
    linears = {name: module for name, module in model.named_modules() if _is_linear(module)}
    stacks = find_stacks(model)
    words = _Words.of(model)
    names = [*linears, *stacks.members(), *words.names]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if patterns is None:
        chosen = {name for name in names if block_of(model, name) and linears.get(name, ...) is not head}
    else:
        chosen = set()
        for pattern in patterns:
            matched = {name for name in names if _matches(name, pattern)}
            if not matched:
                raise UsageError(_no_match(pattern, names))
            chosen |= words.led(matched)
    stays: dict[str, str] = {}
    if layers is not None:
        kept = _in_layers(model, chosen, layers)
        outside = {name for name in chosen if block_of(model, name) is None}
        stays |= dict.fromkeys(outside, f"--layers {layers} chooses blocks, and it is in none")
        chosen = kept | outside
    unroll(model, [name for name in stacks.sizes if not chosen.isdisjoint(stacks.members_of(name))])
    linears = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if words.leader is not None and words.leader in chosen:
        linears = {words.leader: model.get_submodule(words.leader)} | linears
    stays |= {name: _MORE for name in chosen if name in linears and not _answers_linearly(linears[name])}
    stays |= dict.fromkeys(words.led(_read_directly(model, words.all_of(chosen))), _READ)
    stays |= dict.fromkeys((chosen & _tied(model)) - {words.leader}, _TIED)
    targets = []
    notes = []
    if words.leader is not None and words.leader in chosen and words.why_not is not None:
        stays[words.leader] = words.why_not
    elif words.leader in chosen and len(words.names) > 1:
        notes.append(f"{' and '.join(words.names)} are one weight: they get one pair of factors")
    for name, module in linears.items():
        if name in chosen and name not in stays:
            out_features, in_features = weight_of(module).shape
            bias = getattr(module, "bias", None) is not None
            targets.append(Target(name, out_features, in_features, bias))
    notes += _notes({name: stays[name] for name in linears if name in stays})
    if not targets:
        raise UsageError("no linear layer in this model is a target" + "".join(f"; {n}" for n in notes))
    return Found(targets, notes + stacks.notes() + sentences.left_dense(model))


@dataclass
class _Words:
    """The embedding of tokens as a target.

    Attributes:
        names: its own, and of all modules that have its weight; empty where a model has none.
        leader: the name that it is a target by.
        why_not: why it is none.
    """

    names: list[str]
    leader: str | None
    why_not: str | None

    @classmethod
    def of(cls, model: Any) -> _Words:
        entry, leader = vocabulary.entry_of(model), vocabulary.leader_of(model)
        if entry is None:
            return cls([], None, None)
        names = vocabulary.tied_to(model, entry)
        return cls(names, leader, vocabulary.why_not(model, names))

    def led(self, names: set[str]) -> set[str]:
        """Names with the leader in the place of those that it stands for."""
        mine = names & set(self.names)
        return names - mine | ({self.leader} if mine and self.leader else set())

    def all_of(self, names: set[str]) -> set[str]:
        """Names with all those that the leader stands for."""
        return names | set(self.names) if self.leader in names else names


def choose(
    model: Any, targets: Sequence[Target], patterns: Sequence[str] | None = None, layers: str | None = None
) -> list[Target]:
    """Those of the targets that a choice of names and of blocks fits, as `find_targets` reads both.

    Raises:
        UsageError: a pattern or a choice of layers that fits none of them.
    """
    names = {target.name for target in targets}
    if patterns is not None:
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in names):
                raise UsageError(_no_match(pattern, names))
        names = {name for name in names if any(_matches(name, pattern) for pattern in patterns)}
    if layers is not None:
        names = _in_layers(model, names, layers)
    return [target for target in targets if target.name in names]


def unreached(model: Any, names: Sequence[str]) -> list[str]:
    """A note on each target that no token of the data reached, and one on all experts of a tensor."""
    why = "no token of the data reached"
    experts = Counter(name.rpartition(".")[0] for name in names if is_expert(model, name))
    notes = [f"{name} stays dense: {why} it" for name in names if not is_expert(model, name)]
    return notes + [
        f"{count} of the {len(model.get_submodule(stack))} experts of {stack} stay dense: {why} them"
        for stack, count in experts.items()
    ]


def spelled_out(layers: str) -> list[str]:
    """The choices of layers that `A..B` stands for, one for each number from A to B.

    `top:1..3` is `top:1`, `top:2` and `top:3`; `0..2` is each of the first three blocks alone. A choice
    without `..` is itself.

    Raises:
        UsageError: a range that runs backwards, or is longer than any model is deep.
    """
    match = re.search(r"(\d+)\.\.(\d+)", layers)
    if match is None:
        return [layers]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + LONGEST_RANGE:
        raise UsageError(f"--layers {layers}: {match[0]} is no range of layers, as top:1..12 has")
    before, after = layers[: match.start()], layers[match.end() :]
    return [each for number in range(first, last + 1) for each in spelled_out(f"{before}{number}{after}")]


def weight_of(module: nn.Module) -> Tensor:
    """The module's weight as `(out, in)`, a view without gradient."""
    weight = module.weight.detach()  # type: ignore[operator]
    return weight.T if isinstance(module, Conv1D) else weight


def block_of(model: Any, name: str) -> tuple[str, int] | None:
    """`(stack, index)` of the block that a module is in, by its first `ModuleList`; `None` outside."""
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if part.isdigit():
            stack = ".".join(parts[:depth])
            if isinstance(model.get_submodule(stack), nn.ModuleList):
                return stack, int(part)
    return None


def stacks_of(model: Any, names: Sequence[str]) -> list[nn.Module]:
    """All blocks of every stack that one of these modules is in, stack by stack."""
    stacks = dict.fromkeys(block[0] for name in names if (block := block_of(model, name)))
    return [block for stack in stacks for block in model.get_submodule(stack)]


def _is_linear(module: nn.Module) -> bool:
    """A plain linear layer: a subclass with a weight of another kind (quantized, say) is not one."""
    if not isinstance(module, (nn.Linear, Conv1D)):
        return False
    return isinstance(module.weight, Tensor) and module.weight.ndim == 2 and module.weight.is_floating_point()


def _answers_linearly(module: nn.Module) -> bool:
    """A subclass with code of its own may do more, as a router does that chooses experts: it is asked.

    On the meta device its answer is known by its shape alone.
    """
    if isinstance(module, nn.Embedding) or type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    weight = weight_of(module)
    ask = torch.linspace(-1, 1, 2 * weight.shape[1], dtype=weight.dtype, device=weight.device)
    ask = ask.reshape(2, -1)
    expected = nn.functional.linear(ask, weight, module.bias)  # type: ignore[arg-type]
    try:
        with torch.no_grad():
            answer = module(ask)
    except Exception:  # code of any kind, on a shape that it may not expect
        return False
    if not isinstance(answer, Tensor) or answer.shape != expected.shape:
        return False
    return answer.is_meta or bool((answer - expected).norm() <= 0.05 * expected.norm())


def kind_of(name: str) -> str:
    """What a module is called in every block: its last name, and of an expert that of all of them."""
    return next(part for part in reversed(name.split(".")) if not part.isdigit())


def _matches(name: str, pattern: str) -> bool:
    # All experts of a block have one name.
    whole = re.sub(r"\.\d+$", "", name)
    return any(
        each == pattern or each.endswith(f".{pattern}") or fnmatch.fnmatchcase(each, pattern)
        for each in (name, whole)
    )


def _no_match(pattern: str, linears: Iterable[str]) -> str:
    endings = sorted({kind_of(name) for name in linears})
    near = get_close_matches(pattern, endings, 1, 0.5)
    meant = f"; did you mean {near[0]}? There are" if near else "; there are"
    return f"--targets {pattern} fits no linear layer{meant}: {', '.join(endings)}"


def _in_layers(model: Any, chosen: set[str], layers: str) -> set[str]:
    blocks = {name: block for name in chosen if (block := block_of(model, name))}
    sizes = {stack: len(model.get_submodule(stack)) for stack, _ in sorted(set(blocks.values()))}
    kept: set[str] = set()
    for part in layers.split(","):
        indices = {stack: _indices(layers, part.strip(), size) for stack, size in sizes.items()}
        found = {name for name, (stack, index) in blocks.items() if index in indices[stack]}
        if not found:
            there = ", ".join(f"{stack} 0 to {size - 1}" for stack, size in sizes.items()) or "none"
            raise UsageError(f"--layers {layers}: {part} has none of the targets; the blocks are {there}")
        kept |= found
    return kept


def _indices(layers: str, part: str, size: int) -> range:
    if match := re.fullmatch(r"(top|bottom):(\d+)", part):
        count = min(int(match[2]), size)
        return range(size - count, size) if match[1] == "top" else range(count)
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
        return range(int(match[1]), int(match[2] or match[1]) + 1)
    raise UsageError(f"--layers {layers}: {part!r} is none of top:4, bottom:4, 3, 3-7")


def _tied(model: Any) -> set[str]:
    """Linears whose weight, or whose module, is reachable under another name too."""
    names: dict[int, set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].add(name)
    shared = {name for group in names.values() if len(group) > 1 for name in group}
    # On the meta device transformers ties by declaration only.
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    shared |= set(declared) | set(declared.values())
    return {name.removesuffix(".weight") for name in shared if name.endswith(".weight")}


def _read_directly(model: Any, names: set[str]) -> set[str]:
    """Targets whose parent runs without calling them: its code uses their weight itself.

    Found by asking the model anything. One that answers nothing is taken at its word: nothing is reported.
    """
    called: Counter[str] = Counter()

    def count(name: str) -> Any:
        return lambda module, arguments: called.update([name])

    parents = {name.rpartition(".")[0] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(count(name)) for name in names | parents if name
    ]
    try:
        asked = probe.questions(model) if isinstance(model, PreTrainedModel) else ()
        runs = any(_runs(model, question, called) for question in asked)
    finally:
        for hook in hooks:
            hook.remove()
    return {name for name in names if runs and not called[name] and called[name.rpartition(".")[0]]}


def _runs(model: Any, question: probe.Question, called: Counter[str]) -> bool:
    """Whether the model takes these inputs; what was called before it failed counts as not called."""
    called.clear()
    try:
        with torch.no_grad():
            model(**probe.tensors(question, model))
    except Exception:  # of any architecture's own code: this was not what it takes
        return False
    return True


def _notes(stays: dict[str, str]) -> list[str]:
    """One note for what has the same name in every block."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, why in stays.items():
        grouped[re.sub(r"\.\d+\.", ".*.", name), why].append(name)
    return [
        f"{pattern if len(names) > 1 else names[0]} stays dense: {why}"
        for (pattern, why), names in grouped.items()
    ]

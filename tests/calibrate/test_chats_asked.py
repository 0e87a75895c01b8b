"""Of chats whose answers count losses are of where the model says them; what is read counts everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import LLAMA
from torch import Tensor, nn
from watching import ALL, relative, targets_of

from eckart.calibrate import softened, true_labels, watch, watch_blocks
from eckart.evaluation import Reference
from eckart.model.targets import stacks_of
from eckart.model.text import SAID

CHAT = {
    "input_ids": torch.tensor([[3, 5, 7, 9, 11, 2], [4, 6, 8, 10, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    SAID: torch.tensor([[0, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0]]),
}
SAYING = torch.tensor([[0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
"""By hand: one place before each token that the assistant says."""
REAL = CHAT["attention_mask"].bool()


def by_hand(model: Any, names: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Grams of what each module reads, and of gradients of the loss of the answers, of all real tokens."""
    read: dict[str, Tensor] = {}
    wrote: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            read[name], wrote[name] = given[0].detach(), output

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    told = {name: rows for name, rows in CHAT.items() if name != SAID}
    logits = model.eval()(**told).logits
    ids = CHAT["input_ids"]
    answers = [(0, 2, 9), (0, 3, 11), (1, 0, 6), (1, 1, 8)]
    assert all(int(ids[row, at + 1]) == token for row, at, token in answers)
    loss = -sum(logits[row, at].log_softmax(-1)[token] for row, at, token in answers)
    loss.backward()
    for hook in hooks:
        hook.remove()
    grams = [
        {name: rows[REAL].double().T @ rows[REAL].double() for name, rows in found.items()}
        for found in (read, {name: output.grad for name, output in wrote.items()})
    ]
    model.zero_grad()
    return grams[0], grams[1]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "block by block"])
def test_gradients_are_of_the_loss_of_the_answers_and_sums_of_all_tokens(whole):
    model = LLAMA.build()
    names = targets_of(model)
    run = (
        watch
        if whole
        else lambda *given, **more: watch_blocks(given[0], stacks_of(model, names), *given[1:], **more)
    )
    seen = run(model, names, [CHAT], ALL, loss=true_labels())
    inputs, gradients = by_hand(model, names)
    assert seen.tokens == 10
    for name in names:
        assert relative(seen.moments[seen.spaces[name]].second, inputs[name]) < 1e-5, name
        assert relative(seen.gradients[name].second, gradients[name]) < 1e-5, name


def test_labels_are_drawn_for_the_answers_alone():
    model = LLAMA.build()
    names = targets_of(model)
    plain = {name: rows for name, rows in CHAT.items() if name != SAID}
    some, every = (watch(model, names, [batch], ALL, loss=softened(2.0)) for batch in (CHAT, plain))
    last = names[-1]
    # The last block's down projection gets a gradient at the very places that are asked.
    assert some.tokens == every.tokens == 10
    assert torch.linalg.matrix_rank(every.gradients[last].second, rtol=1e-5) > 4
    assert torch.linalg.matrix_rank(some.gradients[last].second, rtol=1e-5) == 4


def test_what_is_held_out_is_compared_where_the_answers_are_said():
    model, other = LLAMA.build(), LLAMA.build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    reference = Reference([CHAT], model)
    assert reference.tokens == 4
    told = {name: rows for name, rows in CHAT.items() if name != SAID}
    before, after = (each.eval()(**told).logits.detach()[SAYING].log_softmax(-1) for each in (model, other))
    moved = reference.of(other)
    assert moved.divergence == pytest.approx(
        float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-4
    )
    labels = torch.tensor([9, 11, 6, 8])
    assert moved.loss == pytest.approx(float(-after.gather(1, labels[:, None]).mean()), rel=1e-4)

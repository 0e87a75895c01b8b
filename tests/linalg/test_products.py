"""Half-precision products go by way of float32 where the processor has no instructions for them."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from eckart.linalg import products, wide_products


@pytest.fixture(autouse=True)
def none_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies float32 alone."""
    monkeypatch.setattr(products, "has_products", lambda dtype: dtype not in products.HALF)


@pytest.mark.parametrize("dtype", products.HALF, ids=str)
def test_a_product_is_the_float32_one_rounded_once(dtype):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((40, 300), (50, 300), (50,)))
    with wide_products():
        found = [
            functional.linear(x, weight, bias),
            x @ weight.T,
            torch.bmm(x[None], weight.T[None])[0],
            torch.einsum("ti,oi->to", x, weight),
        ]
    wide = x.float() @ weight.float().T
    assert {each.dtype for each in found} == {dtype}
    assert torch.equal(found[0], functional.linear(x.float(), weight.float(), bias.float()).to(dtype))
    for each in found[1:]:
        assert torch.equal(each, wide.to(dtype))


@pytest.mark.parametrize("mask", [None, torch.ones(6, 6, dtype=torch.bool).tril()], ids=["whole", "masked"])
def test_attention_is_made_of_products_too(mask):
    torch.manual_seed(0)
    read = [torch.randn(1, 2, 6, 8).bfloat16() for _ in range(3)]
    with wide_products():
        found = functional.scaled_dot_product_attention(*read, attn_mask=mask)
    wide = functional.scaled_dot_product_attention(*(each.float() for each in read), attn_mask=mask)
    assert torch.equal(found, wide.to(torch.bfloat16))


def test_gradients_go_back_in_the_dtype_of_what_they_are_of():
    layer = nn.Linear(30, 20).bfloat16()
    x = torch.randn(5, 30).bfloat16().requires_grad_()
    with wide_products():
        layer(x).float().square().sum().backward()
    exact = nn.Linear(30, 20)
    exact.load_state_dict(layer.float().state_dict())
    y = x.detach().float().requires_grad_()
    exact(y).square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert y.grad is not None
    torch.testing.assert_close(x.grad.float(), y.grad, rtol=0.03, atol=0.03)


def test_other_numbers_are_left_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.Tensor, "float", lambda self: seen.append(self) or self)
    x = torch.randn(3, 4)
    with wide_products():
        assert functional.linear(x, x).dtype == torch.float32
        with pytest.raises(RuntimeError):
            functional.linear(x, x.bfloat16())
        torch.nn.functional.softmax(x.bfloat16(), -1)
    assert not seen


def test_it_holds_for_the_thread_that_enters_it():
    x = torch.randn(8, 8).bfloat16()
    inside: list[bool] = []

    def run() -> None:
        inside.append(len(torch.overrides._get_current_function_mode_stack()) > 0)

    with wide_products():
        x @ x
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert inside == [False]


def test_nothing_is_done_where_there_are_instructions(monkeypatch):
    monkeypatch.setattr(products, "has_products", lambda dtype: True)
    with wide_products():
        assert not torch.overrides._get_current_function_mode_stack()

"""What every row of the catalogue promises, in every structure and with every allocation."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, outputs, some_inputs
from safetensors.torch import load_file
from torch import nn

import eckart
from eckart import recipes, structures
from eckart.recipes.names import ALLOCATIONS

FEWER = [name for name in structures.replacements() if structures.find(name).fewer]
"""Structures with fewer parameters, so that a share of them can be asked for. The others take bytes."""
SPECTRAL = [name for name in FEWER if structures.find(name).spectral]
OTHERS = [name for name in structures.replacements() if name not in SPECTRAL]
CHANNELS = [name for name in FEWER if structures.find(name).channels]
"""Structures whose sites are the inner channels of MLPs."""
LEARNING = tuple(recipes.SELECTIONS)
CUTTING = [name for name, row in recipes.METHODS.items() if row.structure in FEWER]
PLAIN = [name for name in CUTTING if name not in LEARNING and recipes.METHODS[name].structure in SPECTRAL]
OWN = [(row.name, row.structure, row.allocation) for row in recipes.METHODS.values()]


def rows(found: Iterable[tuple[str, str, str]]) -> list[Any]:
    return [pytest.param(*row, id="-".join(row)) for row in dict.fromkeys(found)]


ROWS = [
    *OWN,
    *product(PLAIN, SPECTRAL, ("uniform", "waterfill")),
    *product(LEARNING, SPECTRAL, ("learned",)),
    *product(("svd", "kfac"), SPECTRAL, ("energy",)),
    *product(("svd", "kfac"), OTHERS, ("uniform", "waterfill", "energy")),
    *product(("kfac", "svd-llm"), ("pivoted",), [each for each in ALLOCATIONS if each != "learned"]),
]
KEEP = 0.7
WIDTH, INNER = (getattr(LLAMA.make().config, name) for name in ("hidden_size", "intermediate_size"))
WIDER = 8 * 3 * 2 * WIDTH
"""Parameters of eight channels more in both MLPs: where all are of one width, so many may be left over."""
FULLER = 8 * 2 * (2 * 2 * WIDTH + 3 * (WIDTH + INNER))
"""Parameters of rank eight more in queries, outputs and MLPs, which have one share as all are of one side."""
SIZE = 80_000


def within(after: int, before: int, structure: str, allocation: str) -> bool:
    """Whether as much of a budget is used as whole sizes allow: half a percent is left, or no next size."""
    if allocation != "equal":
        return after >= (KEEP - 0.005) * before
    return after + (WIDER if structure in CHANNELS else FULLER) > KEEP * before


@pytest.fixture(scope="module")
def decaying(tmp_path_factory, tokenizer):
    """A Llama whose weights have decaying spectra and whose embedding has a few strong directions.

    So it is with trained ones: here the allocations and the metrics differ.
    """
    model = LLAMA.build()
    torch.manual_seed(1)
    with torch.no_grad():
        for index, module in enumerate(
            m for m in model.modules() if isinstance(m, (nn.Linear, nn.Embedding))
        ):
            left, values, right = torch.linalg.svd(module.weight, full_matrices=False)
            shape = torch.arange(1, len(values) + 1) ** -(0.3 + 0.1 * (index % 7))
            module.weight.copy_((left * shape * values[0]) @ right)
    folder = tmp_path_factory.mktemp("decaying") / "dense"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(decaying, data, tmp_path_factory):
    cache: dict[tuple[str, ...], tuple[Any, Path]] = {}

    def make(*row: str) -> tuple[Any, Path]:
        if row not in cache:
            out = tmp_path_factory.mktemp("-".join(row)) / "out"
            cache[row] = compress(decaying, out, data, *row), out
        return cache[row]

    return make


def compress(
    folder: Path, out: Path | None, data: str | None, method: str, structure: str, allocation: str
) -> Any:
    dial: dict[str, Any] = {"keep": KEEP} if structure in FEWER else {"size": SIZE}
    return eckart.compress(
        str(folder), out, method=method, structure=structure, allocation=allocation, data=data, **dial
    )


@pytest.mark.parametrize(("method", "structure", "allocation"), rows(ROWS))
class TestEveryRow:
    def test_saves_reloads_and_answers_the_same(self, made, method, structure, allocation):
        result, out = made(method, structure, allocation)
        inputs = some_inputs(LLAMA)
        assert torch.equal(outputs(LLAMA.load(out), inputs), outputs(result.model, inputs))

    def test_meets_the_budget_and_never_exceeds_it(self, made, decaying, method, structure, allocation):
        _, out = made(method, structure, allocation)
        if structure not in FEWER:
            assert 0.98 * SIZE <= (out / "model.safetensors").stat().st_size <= SIZE
            return
        before, after = (
            sum(
                tensor.numel()
                for name, tensor in load_file(folder / "model.safetensors").items()
                if not name.endswith((".order", ".scales", ".rows", ".columns"))
            )
            for folder in (decaying, out)
        )
        assert after / before <= KEEP
        assert within(after, before, structure, allocation)

    def test_of_targets_counts_the_budget_over_the_targets_alone(
        self, decaying, data, method, structure, allocation
    ):
        if structure not in FEWER:
            with pytest.raises(eckart.UsageError, match=r"by --size, --rank or --ratio"):
                eckart.compress(
                    str(decaying), keep=KEEP, of="targets", method=method, structure=structure, data=data
                )
            return
        count = eckart.compress(
            str(decaying),
            keep=KEEP,
            of="targets",
            method=method,
            structure=structure,
            allocation=allocation,
            data=data,
        ).manifest.parameters
        assert count.targets_after / count.targets_before <= KEEP
        assert within(count.targets_after, count.targets_before, structure, allocation)
        assert count.before - count.after == count.targets_before - count.targets_after

    def test_predicted_error_is_the_measured_one(self, made, method, structure, allocation):
        records = made(method, structure, allocation)[0].manifest.targets
        assert any(record.rank for record in records)
        if method in LEARNING:
            assert not any(record.predicted_error or record.measured_error for record in records)
            return
        for record in records:
            if record.measured_error is None:
                assert recipes.METHODS[method].recovery == "refit+imitation", record.name
                continue
            assert record.measured_error == pytest.approx(record.predicted_error, abs=1e-6), record.name
            # What writes channels keeps what is read of it as it was.
            writes = structure in CHANNELS and record.site is not None and record.in_features == WIDTH
            assert (record.measured_error > 1e-4) == (record.rank is not None and not writes), record.name

    def test_manifest_says_which_row_it_was(self, made, method, structure, allocation):
        recipe = made(method, structure, allocation)[0].manifest.recipe
        assert (recipe.method, recipe.structure, recipe.allocation) == (method, structure, allocation)
        assert recipe.metric == recipes.METHODS[method].metric


@pytest.mark.parametrize(
    ("method", "structure", "allocation"), rows([*OWN, *product(("kfac",), OTHERS, ("waterfill",))])
)
def test_again_in_another_process_gives_the_same_bytes(
    made, process, decaying, data, tmp_path, method, structure, allocation
):
    _, out = made(method, structure, allocation)
    again = tmp_path / "out"
    dial = ("--keep", KEEP) if structure in FEWER else ("--size", SIZE)
    answer = process(
        "compress", decaying, "-o", again, "--data", data, "--no-cache", "--method", method,
        "--structure", structure, "--allocate", allocation, *dial,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    code = () if structure in CHANNELS and allocation == "equal" else ("modeling_eckart.py",)
    for name in ("model.safetensors", "config.json", "eckart.json", "README.md", *code):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize("method", PLAIN)
def test_pivoted_holds_more_rank_and_less_error_than_lowrank_at_the_same_size(made, method):
    low, pivoted = (
        made(method, structure, "uniform")[0].manifest.targets for structure in ("lowrank", "pivoted")
    )
    for one, other in zip(low, pivoted, strict=True):
        assert other.rank is None or one.rank is None or other.rank > one.rank
    assert sum(r.predicted_error for r in pivoted) < sum(r.predicted_error for r in low)


@pytest.mark.parametrize("structure", SPECTRAL)
@pytest.mark.parametrize(
    "method",
    [
        name
        for name, row in recipes.METHODS.items()
        if name in CUTTING and row.recovery == "none" and not recipes.METRICS[row.metric].in_loss_units
    ],
)
def test_waterfilling_leaves_no_more_error_than_uniform(made, method, structure):
    uniform, filled = (
        sum(record.predicted_error**2 for record in made(method, structure, allocation)[0].manifest.targets)
        for allocation in ("uniform", "waterfill")
    )
    assert filled < uniform


@pytest.mark.parametrize(
    "method",
    [name for name, row in recipes.METHODS.items() if row.needs_data and name not in ("auto", *LEARNING)],
)
def test_a_row_that_needs_data_says_so_and_depends_on_it(made, decaying, data, tmp_path, method):
    structure = "lowrank" if method in PLAIN else recipes.METHODS[method].structure
    with pytest.raises(eckart.UsageError, match=r"needs data.*--data FILE"):
        compress(decaying, None, None, method, structure, "uniform")
    half = tmp_path / "half.jsonl"
    half.write_text("\n".join(Path(data).read_text().splitlines()[:4]))
    one = made(method, structure, "uniform")[0].manifest
    other = compress(decaying, None, str(half), method, structure, "uniform").manifest
    assert one.data_sha256 != other.data_sha256
    assert one.calibration_tokens > other.calibration_tokens > 0
    assert [r.rank for r in one.targets] == [r.rank for r in other.targets]
    assert [r.predicted_error for r in one.targets] != [r.predicted_error for r in other.targets]


@pytest.mark.parametrize("method", [name for name, row in recipes.METHODS.items() if not row.needs_data])
def test_a_row_without_data_ignores_it(made, decaying, method):
    one = made(method, "lowrank", "uniform")[0].manifest
    other = eckart.compress(str(decaying), keep=KEEP, method=method, structure="lowrank").manifest
    assert one.targets == other.targets
    assert one.calibration_tokens is None


@pytest.mark.parametrize(
    ("method", "blocks"),
    [
        (name, blocks)
        for name in CUTTING
        for blocks in (False, True)
        if name not in LEARNING and not (blocks and recipes.METHODS[name].structure in CHANNELS)
    ],
)
def test_weights_that_are_exact_already_are_no_trouble(decaying, data, tmp_path, method, blocks):
    """Of zeros, so that what reads them is given nothing; constant; of one row; of rank one."""
    dense = LLAMA.load(decaying)
    first, second = dense.model.layers[0], dense.model.layers[1]
    with torch.no_grad():
        first.self_attn.v_proj.weight.zero_()
        first.mlp.up_proj.weight.zero_()
        second.self_attn.q_proj.weight.fill_(0.25)
        second.mlp.gate_proj.weight[1:] = 0
        second.mlp.down_proj.weight.copy_(torch.outer(torch.arange(48.0), torch.arange(80.0)) / 1000)
    dense.save_pretrained(tmp_path / "dense")
    for path in decaying.glob("tokenizer*"):
        (tmp_path / "dense" / path.name).write_bytes(path.read_bytes())
    made = eckart.compress(
        tmp_path / "dense", tmp_path / "out", keep=KEEP, method=method, data=data, blocks=blocks
    )
    assert made.manifest.parameters.keep <= KEEP
    assert torch.isfinite(outputs(LLAMA.load(tmp_path / "out"), some_inputs(LLAMA))).all()

"""How structures are split between the processes of transformers' own tensor parallelism.

Its plan names linear layers: `colwise` ones give each process a share of their outputs, `rowwise` ones take
a share of their inputs. Of a column, `V` is whole everywhere and `U` split; of a row, `V` is split, the sum
over the processes is as narrow as the rank, and `U` is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from eckart.structures.modules import StructuredLinear
from eckart.structures.registry import structure_of

COLUMNS = ("colwise", "colwise_gather_output", "colwise_rep")
ROWS = ("rowwise", "rowwise_split_input", "rowwise_rep")
GATHERED = "colwise_gather_output"


def split_structures(model: Any, plan: dict[str, str]) -> None:
    """Change a plan in place, so that it fits the structures that are in a model.

    A rule is for a kind of layer, which may be a structure in one block and dense in another. Where outputs
    are put in order before they are shared out, as of a pivoted layer, those of its parts are gathered first.
    transformers asks for it at every loading, so what cannot be split is refused when it is to be.
    """
    kinds: dict[str, list[nn.Module]] = {rule: [] for rule in plan}
    for name, module in model.named_modules():
        rule = ".".join("*" if part.isdigit() else part for part in name.split("."))
        if rule in kinds:
            kinds[rule].append(module)
    for rule, modules in kinds.items():
        structured = [module for module in modules if isinstance(module, StructuredLinear)]
        style = plan[rule]
        if not structured or style not in COLUMNS + ROWS:
            continue
        split = [_split(module, style) for module in structured]
        whole = style in COLUMNS and (
            style != "colwise" or any("gathered" in each.values() for each in split)
        )
        for parts in split:
            for part in parts:
                plan[f"{rule}.{part}"] = GATHERED if whole else style
        plan[rule] = _dense_alone(style, sliced=whole and style == "colwise")


def _split(module: StructuredLinear, style: str) -> Mapping[str, str]:
    """How the parts of a structure are split where its outputs, or its inputs, are; empty if it cannot be."""
    structure = structure_of(module)
    assert structure is not None
    return structure.rows if style in ROWS else structure.columns


def _dense_alone(style: str, sliced: bool = False) -> str:
    """The name of a style that is `style` for a dense layer, and leaves a factored one to its parts.

    Args:
        sliced: whether a factored one's outputs are whole then, and each process takes its share of them.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    plain = ALL_PARALLEL_STYLES[style]

    class DenseAlone(type(plain)):  # type: ignore[misc]
        def install_forward(self, module: Any, mesh: Any) -> Any:
            if not isinstance(module, StructuredLinear):
                return super().install_forward(module, mesh)
            if not _split(module, style):
                raise ValueError(
                    f"a layer is {module.structure}, which cannot be shared out over processes: load it in "
                    "one, or `eckart export --format dense` first"
                )
            if sliced:
                module.register_forward_hook(
                    lambda _, inputs, y: (
                        DTensor.from_local(y, mesh, [Replicate()], run_check=False)
                        .redistribute(placements=[Shard(-1)])
                        .to_local()
                    )
                )
            return module

    name = f"eckart_{style}_sliced" if sliced else f"eckart_{style}"
    made = DenseAlone.__new__(DenseAlone)
    made.__dict__.update(plain.__dict__)
    ALL_PARALLEL_STYLES.register(name, made)
    return name

"""How structures are split between the processes of transformers' own tensor parallelism.

Its plan names linear layers: `colwise` ones give each process a share of their outputs, `rowwise` ones take
a share of their inputs. Of a column, `V` is whole everywhere and `U` split; of a row, `V` is split, the sum
over the processes is as narrow as the rank, and `U` is whole.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from eckart.model.portable.structures import FactoredLinear, LowRankLinear

COLUMNS = ("colwise", "colwise_gather_output", "colwise_rep")
ROWS = ("rowwise", "rowwise_split_input", "rowwise_rep")
GATHERED = "colwise_gather_output"


def split_structures(model: Any, plan: dict[str, str]) -> None:
    """Change a plan in place, so that it fits the structures that are in a model.

    A rule is for a kind of layer, which may be factored in one block and dense in another. The outputs of a
    pivoted layer are put in order before they are shared out, so those of its `U` are gathered first.
    """
    kinds: dict[str, list[nn.Module]] = {rule: [] for rule in plan}
    for name, module in model.named_modules():
        rule = ".".join("*" if part.isdigit() else part for part in name.split("."))
        if rule in kinds:
            kinds[rule].append(module)
    for rule, modules in kinds.items():
        factored = [module for module in modules if isinstance(module, FactoredLinear)]
        style = plan[rule]
        if not factored or style not in COLUMNS + ROWS:
            continue
        if style in ROWS:
            plan[f"{rule}.V"] = style
            plan[rule] = _dense_alone(style)
            continue
        whole = style != "colwise" or not all(isinstance(module, LowRankLinear) for module in factored)
        plan[f"{rule}.U"] = GATHERED if whole else style
        plan[rule] = _dense_alone(style, sliced=whole and style == "colwise")


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
            if not isinstance(module, FactoredLinear):
                return super().install_forward(module, mesh)
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

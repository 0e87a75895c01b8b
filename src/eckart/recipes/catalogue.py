"""The catalogue: a published method is a row of choices on four axes, never code of its own.

To add a method, add a row to `METHODS`. If it needs a metric that is not there, add a value to `METRICS`;
if it does not fit in a row at all, an axis is missing a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from eckart.types import Quantize, Selection, UsageError, unknown

Gram = Literal["identity", "mean-absolute", "second-moment", "fisher-rows"]

MOMENTS: dict[tuple[str, Gram], str] = {
    ("right", "mean-absolute"): "absolute",
    ("right", "second-moment"): "second",
    ("left", "second-moment"): "gradient",
    ("left", "fisher-rows"): "fisher",
}
"""The sum over calibration tokens that a Gram on a side is made from. The identity needs none."""


@dataclass(frozen=True)
class Metric:
    """How error is weighed: a Gram for the outputs, `L Lᵀ`, and one for the inputs, `R Rᵀ`.

    Attributes:
        left, right: which Gram; on the left one of gradients, on the right one of inputs.
        shrink: how much of the identity is added to the left Gram, which has to be inverted, relative to
            the mean of its diagonal.
        labels: whose gradients: of the loss on the `data`'s own labels, or on labels `sampled` from what
            the model says, which makes `E[g gᵀ]` a part of the true Fisher information.
        temperature: that the logits are divided by before labels are sampled and the loss is taken.
        in_loss_units: whether errors of different targets compare. If not, an allocator is given each
            target's relative to its own energy.
    """

    right: Gram
    meaning: str
    left: Gram = "identity"
    shrink: float = 0.0
    labels: Literal["data", "sampled"] = "data"
    temperature: float = 1.0
    in_loss_units: bool = False

    @property
    def moments(self) -> frozenset[str]:
        """Which sums over calibration tokens it is made from; empty where it needs no data."""
        sides = (("left", self.left), ("right", self.right))
        return frozenset(MOMENTS[side] for side in sides if side[1] != "identity")


METRICS: dict[str, Metric] = {
    "identity": Metric("identity", meaning="plain Frobenius error of the weight"),
    "input-scale": Metric(
        "mean-absolute", meaning="input channels weighed by their mean size, R = diag(mean|x|)^0.5"
    ),
    "input": Metric(
        "second-moment", meaning="error of the outputs over the calibration tokens, R Rᵀ = E[x xᵀ]"
    ),
    "fisher-rows": Metric(
        "identity",
        left="fisher-rows",
        shrink=1e-6,
        meaning="rows weighed by the Fisher information of their entries, L = diag(√ Σ_in E[g_ij²])",
    ),
    "kfac": Metric(
        "second-moment",
        left="second-moment",
        shrink=0.01,
        in_loss_units=True,
        meaning="loss to second order, its Fisher information as a Kronecker product: E[x xᵀ] and E[g gᵀ]",
    ),
    "softened": Metric(
        "second-moment",
        left="second-moment",
        shrink=0.01,
        labels="sampled",
        temperature=2.0,
        in_loss_units=True,
        meaning="as kfac, for labels that the model itself gives at temperature 2: what it is sure of counts",
    ),
}


SELECTIONS: dict[str, Selection] = {
    "basis-selection": Selection(),
    "basis-training": Selection(bases="trained", additional=0, share=0.6),
}
"""Recoveries that drop bases on the way, and how, unless told otherwise."""


@dataclass(frozen=True)
class Method:
    """I am a row: four choices, a paper, a departure.

    Attributes:
        quantize: what its factors are rounded to, unless told otherwise.
        by_hand: whether its ranks are given by hand. Cut to a size it is another row, and nothing to compare.
    """

    name: str
    metric: str
    structure: str
    allocation: str
    recovery: str
    paper: str
    departure: str
    by_hand: bool = False
    quantize: Quantize | None = None

    @property
    def needs_data(self) -> bool:
        return bool(METRICS[self.metric].moments) or self.recovery in SELECTIONS


def by_name(rows: Iterable[Method]) -> dict[str, Method]:
    """The rows by their names.

    Raises:
        ValueError: two rows have one name.
    """
    found: dict[str, Method] = {}
    for row in rows:
        if row.name in found:
            raise ValueError(f"two rows are called {row.name!r}")
        found[row.name] = row
    return found


METHODS: dict[str, Method] = by_name(
    (
        Method(
            "svd",
            metric="identity",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="Eckart & Young 1936; Xue et al. 2013; Ben Noach & Goldberg 2020",
            departure="none",
        ),
        Method(
            "laser",
            metric="identity",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            by_hand=True,
            paper="LASER, Sharma et al. 2023, arXiv 2312.13558",
            departure="by --ratio and --layers; `eckart sweep` tries many and has the paper's search. A "
            "weight that would not get smaller stays as it is, where the paper truncates it too. The paper "
            "merges back to dense (--merge)",
        ),
        Method(
            "asvd",
            metric="input-scale",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="ASVD, Yuan et al. 2023, arXiv 2312.05821",
            departure="uniform ranks where the paper searches by sensitivity; a failed solve is an error",
        ),
        Method(
            "fwsvd",
            metric="fisher-rows",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="FWSVD, Hsu et al. 2022 (ICLR), arXiv 2207.00112",
            departure="labels are right (peers shift them twice); rows are those of W (out, in) as stored; "
            "the paper fine-tunes before and after",
        ),
        Method(
            "svd-llm",
            metric="input",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="SVD-LLM, Wang et al. 2025 (ICLR), arXiv 2403.07378; DRONE, Chen et al. 2021 (NeurIPS)",
            departure="same optimum by an eigenproblem on the outputs: no Cholesky factor, no inverse, so a "
            "singular moment is no problem; the paper's closed-form update of U is left out (aa-svd has one)",
        ),
        Method(
            "lplr",
            metric="input",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            quantize="int8",
            paper="LPLR, Saha, Srivastava & Pilanci 2023 (NeurIPS), arXiv 2310.11028",
            departure="the range is found exactly where the paper sketches it; each factor is fitted to what "
            "rounding left of the other, in the metric of the inputs; int4 by --quantize",
        ),
        Method(
            "caldera",
            metric="input",
            structure="quantized+lowrank",
            allocation="uniform",
            recovery="none",
            quantize="int4",
            paper="CALDERA, Saha, Sagan, Srivastava, Goldsmith & Pilanci 2024 (NeurIPS), arXiv 2405.18886",
            departure="behind LDLQ numbers and scales are made better in turns; scales of groups where the "
            "paper has lattices behind Hadamard transforms; the factors stay in the model's dtype; the best "
            "of five rounds of rounding and decomposing is taken; int4 where nothing is said of bits; by "
            "--size, --rank or --ratio",
        ),
        Method(
            "aa-svd",
            metric="input",
            structure="lowrank",
            allocation="uniform",
            recovery="refit",
            paper="AA-SVD, Sinha & Fleuret 2026, arXiv 2604.02119; MPIFA (PIFA, ICML 2025) refits likewise",
            departure="reduced-rank regression of each target on what the compressed model before it gives, "
            "front to back; block-wise training is left out",
        ),
        Method(
            "kfac",
            metric="kfac",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="GFWSVD 2025, arXiv 2505.17974; KFAC-SVD (LEMS, ICML 2026)",
            departure="labels are right (peers shift them twice); only the output side is shrunk, as only it "
            "is inverted",
        ),
        Method(
            "lems",
            metric="kfac",
            structure="lowrank",
            allocation="measured",
            recovery="none",
            paper="LEMS, ICML 2026",
            departure="as kfac; the curves are a power of each target's own spectral tail, and there is no "
            "bias for depth",
        ),
        Method(
            "kronecker",
            metric="input",
            structure="kronecker",
            allocation="uniform",
            recovery="none",
            paper="Van Loan & Pitsianis 1993; KroneckerBERT, Tahaei et al. 2021, arXiv 2109.06243",
            departure="a sum of products where KroneckerBERT has one; in the metric of the inputs by solving "
            "for one side and the other in turns; KroneckerBERT is distilled afterwards (recover --teacher)",
        ),
        Method(
            "narrow-mlp",
            metric="input",
            structure="narrow-mlp",
            allocation="equal",
            recovery="none",
            paper="MoDeGPT, Lin et al. 2024 (ICLR 2025), arXiv 2408.09632, its part for MLPs",
            departure="channels are chosen by structured OBS (ZipLM, arXiv 2302.04089), in the paper by the "
            "largest ridge leverage scores; every block of one width, so that the result is a plain model",
        ),
        Method(
            "basis-selection",
            metric="identity",
            structure="lowrank",
            allocation="learned",
            recovery="basis-selection",
            paper="Basis Selection, Li et al. 2024, arXiv 2405.15877; BSI 2026, arXiv 2605.01627",
            departure="bases are ranked by the loss that dropping one is expected to cost (BSI), its "
            "curvature from the gradients of training, over all weights together; --importance magnitude is "
            "the first paper's. Additional bases are ranked with the others in the second half of the "
            "dropping",
        ),
        Method(
            "basis-training",
            metric="identity",
            structure="lowrank",
            allocation="learned",
            recovery="basis-training",
            paper="ours, after Basis Selection: docs/basis-selection.md",
            departure="as basis-selection, but the bases themselves are trained while some are dropped, so "
            "that none need be added",
        ),
        Method(
            "auto",
            metric="softened",
            structure="pivoted",
            allocation="auto",
            recovery="refit+imitation",
            paper="ours: docs/lab-notes.md",
            departure="without data: identity, pivoted, uniform, none",
        ),
    )
)


def find_method(name: str) -> Method:
    """The row of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    raise UsageError(unknown("method", name, METHODS))


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in METRICS:
        return METRICS[name]
    raise UsageError(unknown("metric", name, METRICS))

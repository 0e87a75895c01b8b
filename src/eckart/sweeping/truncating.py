"""A model whose weights are truncated where they stand, again and again, and dense in the end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from eckart.compression.bench import Bench
from eckart.model.targets import weight_of


class Truncated:
    """Truncated SVDs in the dense modules of a model. Each weight is decomposed once, when it is first cut.

    As a context manager it makes the model dense again on the way out, whatever happened.

    Args:
        bench: the model and its targets.
        largest: the highest rank of each target that will be asked for.
    """

    def __init__(self, bench: Bench, largest: Mapping[str, int]) -> None:
        self.bench, self.largest = bench, largest
        self.targets = {target.name: target for target in bench.targets}
        self.now: dict[str, int] = {}
        self._dense: dict[str, Any] = {}

    def __enter__(self) -> Truncated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put({})

    def put(self, ranks: Mapping[str, int]) -> None:
        """The targets at these ranks, and all others dense; only what differs from now is written.

        Raises:
            EckartError: a weight could not be decomposed.
        """
        for name in [name for name in self._dense if name not in ranks]:
            self._weight(name).copy_(self._dense[name])
            del self._dense[name]
            self.now.pop(name, None)
        for name, rank in ranks.items():
            if self.now.get(name) != rank:
                product = self.product(name, rank)
                self._dense.setdefault(name, self._weight(name).clone())
                self._weight(name).copy_(product)
                self.now[name] = rank

    def product(self, name: str, rank: int) -> Any:
        """The truncated weight `(out, in)` in float64."""
        # Asked for while the weight is dense still: afterwards it is kept.
        solved = self.bench.decomposition(self.targets[name], self.largest[name])
        weight = self._dense.get(name, self._weight(name))
        U, V = solved.factors(weight, rank)
        return U @ V

    def _weight(self, name: str) -> Any:
        return weight_of(self.bench.model.get_submodule(name))

"""How likely one of k programs passes, from n that were tried."""

from __future__ import annotations

from math import prod


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The share of all sets of `k` out of `n` programs in which at least one passes.

    `1 - C(n - correct, k) / C(n, k)`, without bias for pass@k of the model that wrote the `n` (Chen et
    al. 2021, arXiv 2107.03374, eq. 1), as a product, whose factors stay between 0 and 1.

    Raises:
        ValueError: not `0 <= correct <= n` and `1 <= k <= n`.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} programs cannot have passed")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs {k} programs at least, and one at least: there are {n}")
    if n - correct < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(n - correct + 1, n + 1))

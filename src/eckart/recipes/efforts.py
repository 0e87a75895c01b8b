"""How much work goes into a cut: the same course, with more or less data and more or fewer tries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What one word of `--effort` stands for.

    Attributes:
        gradient_tokens: that gradients are taken of at most: their moments settle sooner than the inputs'.
        floors: of water-filling: shares of its uniform size that no site goes below; all are tried on
            held-out data.
        imitated_tokens: that a cut model reads at most while it learns to say what the dense one says.
    """

    gradient_tokens: int
    floors: tuple[float, ...]
    imitated_tokens: int


NORMAL = "normal"
EFFORTS = {
    "fast": Effort(4_096, (0.0, 0.5), 8_192),
    NORMAL: Effort(16_384, (0.0, 0.3, 0.5, 0.7, 0.85), 32_768),
    "best": Effort(65_536, (0.0, 0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85), 131_072),
}

"""What one generated sample is, and the rule that puts it in the train or the test split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SKILLS = ("math", "code", "stories")
SPLITS = ("train", "test")

# One key in TEST_SHARE belongs to the test split. Larger wastes less drawing for tests; smaller
# leaves more of the space to train on.
TEST_SHARE = 8


@dataclass(frozen=True)
class Sample:
    """One document: what the model is given, what it should write, and how to judge it.

    `key` is the canonical content the split is decided by (problem template and numbers, function
    composition and constants, plot choices). Wording and names are not part of it, so a
    paraphrase of a train sample is never a test sample.
    """

    skill: str
    key: str
    prompt: str
    completion: str
    tests: tuple[str, ...] = ()
    answer: str = ""

    @property
    def text(self) -> str:
        """The whole document as the model sees it, without special tokens."""
        return self.prompt + self.completion


def split_of(skill: str, key: str) -> str:
    """The split a key belongs to: a pure function of the content, so splits cannot overlap."""
    digest = hashlib.blake2b(f"{skill}|{key}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"

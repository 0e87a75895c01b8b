"""Generated documents packed into fixed windows for training, chunk after chunk."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from eckart.pocket.generator import samples
from eckart.pocket.sample import SKILLS

# Shares of the documents by skill. Stories are the longest and the easiest to learn.
MIX = {"math": 0.42, "code": 0.46, "stories": 0.12}
# Prompts of math and code are mostly random numbers and names: they are learned, but more weight
# would spend a small model on noise.
PROMPT_WEIGHT = 0.3


@dataclass(frozen=True)
class Windows:
    """Packed windows; all fields are (windows, length).

    Position is that of a token within its document, weight its share in the loss as a target, and
    skill an index into SKILLS for tokens of a completion, -1 for prompts and padding.
    """

    ids: Tensor
    position: Tensor
    weight: Tensor
    skill: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: slice) -> Windows:
        return Windows(self.ids[at], self.position[at], self.weight[at], self.skill[at])

    def mask(self) -> Tensor:
        """Which token may look at which: earlier ones of its own document. (windows, 1, n, n).

        Without it a document would be read behind strangers, which it never is in use, and the
        model would first have to learn to look past their numbers and letters.
        """
        starts = (self.position == 0).cumsum(1)
        same = starts[:, :, None] == starts[:, None, :]
        return same.tril().unsqueeze(1)


Document = tuple[list[int], list[float], list[int]]


def _documents(
    tokenizer: PreTrainedTokenizerFast, split: str, count: int, seed: int, length: int
) -> list[Document]:
    rng = random.Random(f"mix|{split}|{seed}")
    picks = rng.choices(SKILLS, [MIX[skill] for skill in SKILLS], k=count)
    streams = {skill: samples(skill, split, seed) for skill in SKILLS}
    drawn = [next(streams[skill]) for skill in picks]
    prompts = tokenizer([s.prompt for s in drawn])["input_ids"]
    completions = tokenizer([s.completion for s in drawn], add_special_tokens=False)["input_ids"]
    documents: list[Document] = []
    for sample, prompt, completion in zip(drawn, prompts, completions, strict=True):
        ids = [*prompt, *completion, tokenizer.eos_token_id]
        if len(ids) > length:
            continue
        head, tail = len(prompt), len(ids) - len(prompt)
        share = 1.0 if sample.skill == "stories" else PROMPT_WEIGHT
        # Nothing precedes the first token of a document that could predict it.
        weight = [0.0] + [share] * (head - 1) + [1.0] * tail
        skill = [-1] * head + [SKILLS.index(sample.skill)] * tail
        documents.append((ids, weight, skill))
    return documents


def chunk(tokenizer: PreTrainedTokenizerFast, split: str, count: int, length: int, seed: int) -> Windows:
    """Pack about `count` fresh documents; a pure function of its arguments, so runs can resume.

    Each window starts at the start of a document and holds whole documents only; the gap at its
    end is padding of weight zero. Longest-first filling keeps the gaps at a few percent.
    """
    by_length: dict[int, list[Document]] = {}
    for document in _documents(tokenizer, split, count, seed, length):
        by_length.setdefault(len(document[0]), []).append(document)
    rng = random.Random(f"pack|{seed}")
    windows: list[tuple[list[int], list[int], list[float], list[int]]] = []
    pad = tokenizer.pad_token_id
    while by_length:
        ids: list[int] = []
        position: list[int] = []
        weight: list[float] = []
        skill: list[int] = []
        parts: list[Document] = []
        room = length
        while fitting := [size for size in by_length if size <= room]:
            # The first pick is free, so that windows differ; the last ones fill the gap.
            size = max(fitting) if room < length // 2 else rng.choice(fitting)
            parts.append(by_length[size].pop())
            if not by_length[size]:
                del by_length[size]
            room -= size
        rng.shuffle(parts)
        for part in parts:
            ids += part[0]
            position += range(len(part[0]))
            weight += part[1]
            skill += part[2]
        ids += [pad] * room
        position += range(room)
        windows.append((ids, position, weight + [0.0] * room, skill + [-1] * room))
    rng.shuffle(windows)
    fields = zip(*windows, strict=True)
    return Windows(*(torch.tensor(field) for field in fields))

"""The pocket model's byte-level BPE tokenizer, trained on generated text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from eckart.pocket.generator import samples
from eckart.pocket.sample import SKILLS

VOCAB_SIZE = 1024
MAX_LENGTH = 512
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
# A newline; a digit; a word or a run of signs with the space before it; the spaces left over.
_PIECES = r"\n|\d| ?\p{L}+| ?[^\s\p{L}\d]+|[^\S\n]+(?=[^\S\n])|[^\S\n]+"


def _training_text(per_skill: int, seed: int) -> Iterator[str]:
    for skill in SKILLS:
        for sample in islice(samples(skill, "train", seed), per_skill):
            yield sample.text


def build_tokenizer(per_skill: int = 6000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `per_skill` train samples of each skill.

    A newline is always a token of its own, so a text cut behind a newline has the same tokens as
    its two halves: prompts and completions can be tokenized apart. Digits are single tokens,
    which spares the model learning a table of numbers. Letters and signs never share a token, so a
    quoted letter or word has the same tokens in a docstring and in the code that repeats it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_text(per_skill, seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )

"""What a model of any kind can be asked: found by asking, before anything is done to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from math import isfinite, prod
from typing import Any

from eckart.model.configs import said
from eckart.model.probe import answer
from eckart.model.text import is_encoder_decoder
from eckart.types import EckartError, Probe, ProbeInput
from eckart.types.manifest import LARGEST_INPUT

LENGTH = 16
"""Tokens of a text, and frames of what is short."""
BYTES = 256
SECOND = 16_000
"""Samples of a sound."""

PLAIN = {
    "bbox": ProbeInput(shape=(1, LENGTH, 4), fill=0),
    "attention_mask": ProbeInput(shape=(1, LENGTH), fill=1),
    "token_type_ids": ProbeInput(shape=(1, LENGTH), fill=0),
}
"""Inputs that look alike in all models, by the ends of their names."""

Question = dict[str, ProbeInput]


def question_of(model: Any) -> Probe:
    """A question that the model answers, and the names of its outputs; or why there is none.

    What a model takes is asked of it: its main input, the parameters of `forward`, and its config, which says
    how large an image is and how many bands a sound has. The first question that it answers is taken.

    Raises:
        EckartError: the model answers, and no number of it is finite.
    """
    failures = []
    for question in questions(model):
        try:
            found = answer.ask(model, described(question))
        except Exception as error:  # of any architecture's own code: this was not what it takes
            failures.append(f"{', '.join(question)}: {said(error)}")
            continue
        outputs: dict[str, list[float]] = {
            name: [] for name, values in found.items() if all(map(isfinite, values)) and name != answer.LAST
        }
        if outputs:
            return Probe(inputs=question, outputs=outputs)
        if found:
            raise EckartError(
                f"{type(model).__name__} answers a fixed question with values that are not finite: it "
                f"overflows in {str(model.dtype).removeprefix('torch.')}; try another --dtype"
            )
        failures.append(f"{', '.join(question)}: no numbers come out")
    # The likeliest is the first.
    why = failures[0] if failures else f"{model.main_input_name} is of no known shape"
    return Probe(unasked=f"no question was found that {type(model).__name__} answers ({why})")


def described(question: Mapping[str, ProbeInput]) -> dict[str, dict[str, Any]]:
    """The inputs in plain values, as another process takes them."""
    return {name: each.model_dump() for name, each in question.items()}


def questions(model: Any) -> Iterator[Question]:
    """What the model may take, from the likeliest on."""
    takes = signature(model.forward).parameters
    main = model.main_input_name if isinstance(model.main_input_name, str) else model.main_input_name[0]
    needed = [
        name
        for name, each in takes.items()
        if each.default is Parameter.empty and each.kind == Parameter.POSITIONAL_OR_KEYWORD and name != main
    ]
    companions = [name for name in ("input_ids", "pixel_values", "bbox", "input_features") if name in takes]
    groups = [
        [main, *needed],
        [*dict.fromkeys([main, *companions, *needed])],
        *([each] for each in companions if each != main),
    ]
    for group in groups:
        if is_encoder_decoder(model):
            group.append("decoder_input_ids")
        yield from _with_shapes(model, list(dict.fromkeys(group)))


def _with_shapes(model: Any, names: list[str]) -> Iterator[Question]:
    """These inputs, each in all shapes that it may have, one after another for all of them."""
    choices = {name: _shapes(model, name) for name in names}
    if not all(choices.values()):
        return
    for index in range(max(map(len, choices.values()))):
        yield {name: each[min(index, len(each) - 1)] for name, each in choices.items()}


def _shapes(model: Any, name: str) -> list[ProbeInput]:
    """What an input of this name may look like; nothing where that is not known."""
    config = model.config
    if name.endswith("input_ids"):
        return _texts(config)
    if name == "past_values":
        length, width = _number(config, "context_length"), _number(config, "num_input_channels")
        return [ProbeInput(shape=(1, length, width))] if length and width else []
    if name.startswith("pixel_values"):
        return [ProbeInput(shape=shape) for shape in _images(config) if prod(shape) <= LARGEST_INPUT]
    if name in ("input_values", "input_features"):
        return [ProbeInput(shape=shape) for shape in _sounds(config) if prod(shape) <= LARGEST_INPUT]
    return [each.model_copy() for end, each in PLAIN.items() if name.endswith(end)]


def _texts(config: Any) -> list[ProbeInput]:
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None)
    if not isinstance(vocabulary, int):
        # A model of characters has none: it knows them all.
        vocabulary = BYTES
    ids = [(7919 * (position + 1)) % vocabulary for position in range(LENGTH)]
    ends = getattr(text, "eos_token_id", None)
    end = next((each for each in (ends if isinstance(ends, list) else [ends]) if isinstance(each, int)), 0)
    ended = [*ids[:-1], end]
    rows = [ids, ended]
    # A multiple choice reads several texts as one.
    choice = ProbeInput(shape=(1, 2, LENGTH), values=[*ids, *ended])
    return [*(ProbeInput(shape=(1, LENGTH), values=each) for each in rows), choice]


def _images(config: Any) -> list[tuple[int, ...]]:
    """Channels first, as configs give the size: of the model, or of the part that sees."""
    channels = _number(config, "num_channels") or 3
    size = _value(config, "image_size") or _value(config, "input_size") or 224
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    frames = _number(config, "num_frames") or LENGTH
    image = (channels, *sides[-2:])
    series = [(1, frames, *image), (1, 1, *image), (1, 2, *image)]
    return [(1, *image), *series, (1, channels, 64, 64), (1, channels, 224, 224)]


def _sounds(config: Any) -> list[tuple[int, ...]]:
    """A wave, or its spectrum: bands first, or frames first."""
    waves = [(1, SECOND), (1, 1, SECOND)]
    spectra: list[tuple[int, ...]] = []
    names = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "feature_size")
    if bands := next(filter(None, (_number(config, name) for name in names)), None):
        frames = _number(config, "max_source_positions")
        long = _number(config, "max_length") or 1024
        spectra = [(1, bands, 2 * frames)] if frames else []
        spectra += [(1, 8 * LENGTH, bands), (1, bands, 8 * LENGTH), (1, long, bands), (1, 1, long, bands)]
    return spectra + waves


def _number(config: Any, name: str) -> int | None:
    found = _value(config, name)
    return found if isinstance(found, int) and 0 < found < 1_000_000 else None


def _value(config: Any, name: str) -> Any:
    """What a config, or a part of it, says of a thing."""
    parts = [getattr(config, part, None) for part in getattr(config, "sub_configs", {})]
    for part in (config, *parts, getattr(config, "backbone_config", None)):
        if part is not None and (found := getattr(part, name, None)):
            return found
    return None

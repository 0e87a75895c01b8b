"""Short stories from our own plots: who, where, what is wanted, what goes wrong, who helps.

A plot is a list of beats, each a pool of sentences over the same slots, so the hero, the object
and the helper named at the start are the ones that come back at the end. The prompt is the title
line. The plot and its slot choices are the key of the split; wording and names are not.
"""

from __future__ import annotations

import random

from eckart.pocket.sample import Sample
from eckart.pocket.skills.plots import (
    COLORS,
    FEELINGS,
    FOODS,
    HELPERS,
    HEROES,
    KINDS,
    OBJECTS,
    PLACES,
    PLOTS,
    SHARED,
    SPOTS,
    TRAITS,
    WEATHERS,
)


def draw(rng: random.Random) -> Sample:
    """Draw one story; its prompt is the title line."""
    plot = rng.choice(sorted(PLOTS))
    titles, beats = PLOTS[plot]
    hero, they, them, their = rng.choice(HEROES)
    kind = rng.choice(KINDS)
    if kind == "boy or girl":
        kind = "girl" if they == "she" else "boy"
    place, item, color = rng.choice(PLACES), rng.choice(OBJECTS), rng.choice(COLORS)
    helper = rng.choice([h for h in HELPERS if h != kind])
    weather, food = rng.choice(WEATHERS), rng.choice(FOODS)
    spot, spot2 = rng.sample(SPOTS, 2)
    bad, good = rng.choice(FEELINGS)
    slots = {
        "hero": hero, "they": they, "them": them, "their": their, "kind": kind, "place": place,
        "object": item, "color": color, "helper": helper, "weather": weather, "food": food,
        "spot": spot, "spot2": spot2, "bad": bad, "good": good, "trait": rng.choice(TRAITS),
        "They": they.capitalize(), "Their": their.capitalize(),
        "Place": place[0].upper() + place[1:], "Object": item.capitalize(),
        "Helper": helper.capitalize(),
    }  # fmt: skip
    sentences: list[str] = []
    for beat in beats:
        pool = SHARED[beat] if isinstance(beat, str) else beat
        optional = pool[0] == ""
        if optional and rng.random() < 0.5:
            continue
        sentence = rng.choice(pool[1:] if optional else pool).format(**slots)
        if beat == "ending" and rng.random() < 0.5:
            first = sentence
            sentence = rng.choice([s for s in pool if s.format(**slots) != first]).format(**slots)
            sentence = f"{first} {sentence}"
        sentences.append(sentence)
    body = " ".join(sentences).replace(" \n ", "\n")
    # An article before a vowel sound; the slots are lower-case words, so spelling decides.
    for vowel in "aeiou":
        body = body.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    title = rng.choice(titles).format(**slots)
    for vowel in "AEIOU":
        title = title.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    # Only slots that every story shows: a slot the text can leave out would let one text have
    # two keys, and so be in both splits.
    key = ":".join((plot, kind, place, color, item, helper))
    return Sample("stories", key, title + "\n", body + "\n")

"""The words and plots of the stories.

A plot is its titles and a list of beats in order; a beat is a pool of sentences over shared slots,
written out or named in SHARED. A pool that begins with "" is left out half of the time.
"""

from __future__ import annotations

from typing import NamedTuple


class Hero(NamedTuple):
    """A name with its pronouns."""

    name: str
    they: str
    them: str
    their: str


class Plot(NamedTuple):
    """The titles a plot can have and its beats in order."""

    titles: list[str]
    beats: list[str | list[str]]


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator)


_GIRLS = _split(
    "Lila Willa Fern Wren Poppy Hazel Tilly Dora Minna Selma Opal Greta Luna Bess Sunny Clover "
    "Marigold Juniper",
    " ",
)
_BOYS = _split(
    "Pip Moss Bram Otto Rufus Jasper Felix Oskar Milo Barnaby Emil Toby Gus Linus Pepper Basil Archie Button",
    " ",
)
HEROES = [
    *(Hero(name, "she", "her", "her") for name in _GIRLS),
    *(Hero(name, "he", "him", "his") for name in _BOYS),
]
KINDS = _split(
    "fox,rabbit,mouse,bear,hedgehog,squirrel,otter,badger,duck,kitten,puppy,lamb,mole,goose,pony,"
    "boy or girl,boy or girl,boy or girl,boy or girl",
    ",",
)
TRAITS = _split(
    "little young curious quiet cheerful clever gentle brave sleepy stubborn merry dreamy",
    " ",
)
PLACES = _split(
    "by the sea;near a dark forest;in a tall tower;on a green hill;beside a slow river;"
    "at the edge of town;in an old mill;under a big oak;in a snowy valley;on a small island;"
    "behind the bakery;next to the harbor;in a house with a red door;above a toy shop;"
    "in a sunny meadow;at the foot of a mountain;inside an old barn;on a boat house roof;"
    "beyond the apple orchard;close to a quiet lake",
    ";",
)
COLORS = _split(
    "red blue golden silver green yellow purple white black orange wooden shiny tiny striped",
    " ",
)
OBJECTS = _split(
    "kite lantern drum boat bell scarf whistle key basket umbrella wagon mirror flute hat clock "
    "pillow teapot compass blanket sled ladder violin crown puppet bottle ribbon lamp bucket spoon "
    "broom map",
    " ",
)
HELPERS = _split(
    "owl grandmother baker sailor frog crow gardener turtle teacher goat miller cat beaver fisherman "
    "donkey neighbor shepherd postman stork snail painter cook",
    " ",
)
WEATHERS = _split(
    "windy morning;rainy afternoon;bright spring day;cold winter evening;warm summer night;"
    "foggy morning;quiet Sunday;stormy day",
    ";",
)
SPOTS = _split(
    "under the bed;behind the stove;in the tall grass;on the roof;inside a hollow log;"
    "between two stones;at the bottom of the well;in the hay;beneath the bridge;up in a tree;"
    "near the fence;among the roses;in the kitchen;at the end of the path",
    ";",
)
# How a hero feels before and after.
FEELINGS = [
    ("sad", "glad"),
    ("worried", "calm"),
    ("lonely", "happy"),
    ("angry", "cheerful"),
    ("afraid", "proud"),
    ("tired", "bright"),
]
FOODS = _split(
    "soup;honey cake;warm bread;apple pie;pancakes;berry jam;hot cocoa;plum tart;nut bread;cheese",
    ";",
)

_OPENING = [
    "Once there was a {trait} {kind} named {hero}. {They} lived {place}.",
    "{Place} lived a {trait} {kind} called {hero}.",
    "{hero} was a {trait} {kind} who lived {place}.",
    "A {trait} {kind} named {hero} had a home {place}.",
]
_COLORING = [
    "",
    "The wind was singing in the leaves.",
    "Every day {they} ate {food} for breakfast.",
    "Everyone there knew {hero} well.",
    "{hero} liked to sing while {they} worked.",
    "The days were long and full of small wonders.",
    "In the mornings {they} liked to watch the clouds.",
    "{Their} favorite place was {spot}.",
    "{hero} had many plans and very little time.",
]
_OWNING = [
    "More than anything, {hero} loved {their} {color} {object}.",
    "{hero} had a {color} {object}, and {they} took it everywhere.",
    "{Their} best treasure was a {color} {object}.",
    "For {their} birthday, {hero} had been given a {color} {object}.",
]
_MEETING = [
    "Just then a {helper} came along.",
    "A {helper} heard {them} and stopped.",
    "Then {they} met a {helper}.",
    "After a while, a {helper} walked by.",
]
_ASKING = [
    '"Why do you look so {bad}?" asked the {helper}.',
    '"What is wrong, {hero}?" the {helper} asked.',
    '"You seem {bad}, my friend," said the {helper}.',
    '"Can I help you?" asked the {helper} in a kind voice.',
]
_ENDING = [
    "{hero} was {good} again.",
    "From that day on, {hero} and the {helper} were friends.",
    "That night {hero} slept well, with the {object} beside {them}.",
    "They ate {food} together and laughed until the stars came out.",
    "And whenever {hero} looked at the {color} {object}, {they} thought of the {helper}.",
    '"Thank you," said {hero}, and the {helper} smiled.',
]
_MORAL = [
    "",
    "{hero} learned that asking for help is not hard at all.",
    "After that, {hero} was never {bad} for long.",
    "A good friend is worth more than any {object}, {hero} thought.",
    "It had been a long day, but a good one.",
]
SHARED: dict[str, list[str]] = {
    "opening": _OPENING, "coloring": _COLORING, "owning": _OWNING, "meeting": _MEETING,
    "asking": _ASKING, "ending": _ENDING, "moral": _MORAL, "paragraph": ["\n"],
}  # fmt: skip

PLOTS: dict[str, Plot] = {
    "lost": Plot(
        ["The Lost {Object}", "{hero} and the Lost {Object}", "Where Is the {Object}?"],
        [
            "opening", "coloring", "owning",
            [
                "One {weather}, the {object} was gone.",
                "On a {weather}, {they} could not find the {object} anywhere.",
                "But one {weather}, {hero} woke up and the {object} was missing.",
            ],
            [
                "{hero} looked {spot}, but it was not there.",
                "{They} searched {spot} and found only dust.",
                "First {they} looked {spot}. Nothing!",
            ],
            ["{They} felt very {bad}.", "{hero} sat down and was {bad}."],
            "paragraph", "meeting", "asking",
            [
                '"I have lost my {object}," said {hero}.',
                '"My {color} {object} is gone," {hero} said softly.',
            ],
            [
                '"Then let us look {spot2}," said the {helper}.',
                '"I saw something {color} {spot2}," said the {helper}.',
            ],
            [
                "They went there together, and there it was: the {color} {object}!",
                "And really, {spot2} lay the {object}, safe and sound.",
                "They looked {spot2}, and {hero} gave a shout. The {object} was there!",
            ],
            "ending", "moral",
        ],
    ),
    "broken": Plot(
        ["The Broken {Object}", "{hero} Mends a {Object}", "A Crack in the {Object}"],
        [
            "opening", "owning", "coloring",
            [
                "One {weather}, the {object} fell down and broke.",
                "But on a {weather}, {hero} tripped, and the {object} broke in two.",
                "One {weather}, there was a loud crack. The {object} was broken.",
            ],
            [
                "{hero} tried to mend it with string, but the string was too thin.",
                "{They} tried some glue, but it did not hold.",
                "{They} tied it with grass, but it fell apart again.",
            ],
            "paragraph", "meeting", "asking",
            ['"My {object} is broken," said {hero}.', '"Look at my poor {object}," {hero} said.'],
            [
                '"Hold it still," said the {helper}, and took out a small nail.',
                '"We can fix it with a bit of wax," said the {helper}.',
                '"I know a trick," said the {helper}, and tied a strong knot.',
            ],
            [
                "They worked until the {object} was whole again.",
                "Soon the {color} {object} was as good as new.",
                "When they were done, nobody could see the crack.",
            ],
            "ending", "moral",
        ],
    ),
    "journey": Plot(
        ["The Long Way", "{hero} Brings the {Object}", "A {Object} for the {Helper}"],
        [
            "opening", "coloring",
            [
                "One {weather}, {hero} had to bring a {color} {object} to the {helper}.",
                "The {helper} needed a {object}, so on a {weather} {hero} set out with {their} "
                "{color} one.",
            ],
            [
                "The path led over the hills and through the reeds.",
                "It was a long way, and the road was full of mud.",
                "{They} walked and walked, and {their} feet grew sore.",
            ],
            [
                "At the river there was no bridge. {hero} was {bad}, but {they} made a raft from "
                "old logs.",
                "A big rock lay across the road. {hero} felt {bad}, but then {they} dug a way "
                "around it.",
                "The fog came down and hid the path. {hero} was {bad}, so {they} followed the sound "
                "of a stream.",
                "A gate was shut. {hero} felt {bad} until {they} found a gap {spot}.",
            ],
            "paragraph",
            [
                "At last {hero} knocked on the door of the {helper}.",
                "In the evening {they} reached the {helper}.",
            ],
            [
                '"I have brought you the {object}," said {hero}.',
                '"Here is the {color} {object}," {hero} said, out of breath.',
            ],
            [
                '"You came all this way!" said the {helper}.',
                '"What a brave {kind} you are," said the {helper}.',
            ],
            [
                "The {helper} gave {them} {food}, and {hero} felt {good}.",
                "They sat by the fire and ate {food}.",
            ],
            "moral",
        ],
    ),
    "friend": Plot(
        ["A New Friend", "{hero} Meets the {Helper}", "The {Object} and the Friend"],
        [
            "opening", "owning",
            [
                "But {hero} had nobody to play with and often felt {bad}.",
                "Still, {they} played alone, and that made {them} {bad}.",
            ],
            [
                "One {weather}, a {helper} moved in next door.",
                "On a {weather}, {hero} saw a new {helper} outside.",
            ],
            [
                "The {helper} was shy and hid {spot}.",
                "The {helper} sat {spot} and did not say a word.",
            ],
            "paragraph",
            [
                '"Do you want to see my {object}?" asked {hero}.',
                '"This is my {color} {object}," said {hero}. "You may hold it."',
            ],
            [
                '"It is lovely," the {helper} said quietly.',
                '"I have never seen such a {color} {object}," said the {helper}.',
            ],
            [
                "They played with the {object} until it was dark.",
                "Soon they were running and laughing with the {object}.",
            ],
            "ending", "moral",
        ],
    ),
    "contest": Plot(
        ["The Great Contest", "{hero} and the {Object} Contest", "The Day of the {Object}"],
        [
            "opening", "coloring",
            [
                "Soon there would be a contest for the finest {object} in the land.",
                "Everyone was talking about the big {object} contest.",
            ],
            [
                "{hero} made a {color} {object} and worked on it every day.",
                "{They} wanted to win with {their} {color} {object}.",
            ],
            [
                "But on a {weather} it all went wrong, and {hero} was {bad}.",
                "The first try failed, and {they} felt {bad}.",
            ],
            "paragraph", "meeting", "asking",
            ['"My {object} is not good enough," said {hero}.', '"I will never win," said {hero}.'],
            [
                '"Try once more, and go slowly," said the {helper}.',
                '"I will show you how," said the {helper}.',
            ],
            [
                "On the day of the contest, the {color} {object} won first prize.",
                "{hero} came second, but the {helper} clapped the loudest.",
                "{hero} did not win, but the {object} was finer than ever before.",
            ],
            "ending", "moral",
        ],
    ),
    "noise": Plot(
        ["The Strange Noise", "{hero} Hears a Noise", "The Noise and the {Object}"],
        [
            "opening", "owning", "coloring",
            [
                "One {weather}, {hero} heard a strange noise {spot}.",
                "On a {weather}, something went bump {spot}.",
            ],
            [
                "{They} felt {bad} and hid under {their} blanket.",
                "{hero} was {bad} and did not dare to move.",
            ],
            [
                "The noise came again, louder than before.",
                "Tap, tap, tap, it went.",
                "Then it was still, and then it came back.",
            ],
            "paragraph",
            [
                "At last {hero} took {their} {color} {object} and went to look.",
                "{They} held the {object} tight and tiptoed closer.",
            ],
            [
                "It was only a {helper}, who was stuck {spot}!",
                "There, {spot}, sat a {helper} with cold feet.",
            ],
            [
                '"Please help me," said the {helper}.',
                '"I did not want to scare you," said the {helper}.',
            ],
            [
                "{hero} used the {object} to pull the {helper} out.",
                "{hero} laughed and shared some {food} with the {helper}.",
            ],
            "ending", "moral",
        ],
    ),
    "sharing": Plot(
        ["The {Object} for Two", "{hero} Learns to Share", "Mine and Yours"],
        [
            "opening", "owning",
            [
                "One {weather}, a {helper} asked to use the {object}.",
                "On a {weather}, a {helper} came and pointed at the {object}.",
            ],
            [
                '"No, it is mine," said {hero}, and hid it {spot}.',
                '"Nobody may touch it," {hero} said, and put it {spot}.',
            ],
            [
                "The {helper} went away without a word.",
                "The {helper} nodded slowly and went home.",
            ],
            [
                "But alone with the {object}, {hero} felt {bad}.",
                "Then it was very quiet, and {hero} was {bad}.",
            ],
            "paragraph",
            [
                "So {they} took the {color} {object} and ran after the {helper}.",
                "The next day {hero} carried the {object} to the {helper}.",
            ],
            [
                '"I am sorry," said {hero}. "Let us use the {object} together."',
                '"We can take turns," said {hero}. "You go first."',
            ],
            [
                "The {helper} smiled, and they played all day.",
                "It was much more fun with two.",
            ],
            "ending", "moral",
        ],
    ),
}  # fmt: skip

"""The page of bases: whole, on its own, and every token as text."""

from __future__ import annotations

from html.parser import HTMLParser

from eckart.report.bases import page
from eckart.types import Basis, Target

HOSTILE = ["</script>", "<b>", '"&amp;', "<img src=x onerror=alert(1)>", "$name", "${rows}", "]]>"]
VOID = {"meta", "input", "br", "link", "img"}


class Read(HTMLParser):
    """What a browser would see: elements, attributes and texts; fails where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def basis(index: int = 0, reads: list[str] | None = None, writes: list[str] | None = None) -> Basis:
    ends = [None if side is None else {"plus": side, "minus": side[::-1]} for side in (reads, writes)]
    return Basis(index=index, value=2.5, share=0.125, reads=ends[0], writes=ends[1])


def test_each_target_has_its_table() -> None:
    targets = [
        (Target("a.q_proj", 4, 4, False), [basis(0, ["one"], ["two"]), basis(1, ["three"], ["four"])]),
        (Target("a.up_proj", 8, 4, False), [basis(0, ["five"])]),
        (Target("a.zero", 4, 4, False), []),
    ]
    text = page("mine", targets, ["a note"])
    read = Read(text)
    assert read.texts["h1"] == ["The bases of mine"]
    assert read.texts["h2"] == ["a.q_proj", "a.up_proj", "a.zero"]
    assert read.count("details") == read.count("table") == read.count("caption") == 3
    assert sum("open" in attributes for tag, attributes in read.elements if tag == "details") == 1
    assert sum(attributes.get("scope") == "col" for tag, attributes in read.elements) == 9
    assert sum(attributes.get("scope") == "row" for tag, attributes in read.elements) == 3
    words = ["one", "one", "two", "two", "three", "three", "four", "four", "five", "five"]
    assert read.texts["bdi"] == words
    assert text.count("not as wide as the hidden state</span>") == 1
    assert "The weight is zero." in text
    assert "a note" in read.texts["li"]
    assert "σ 2.5" in read.texts["small"]
    assert "12.5% of the energy" in read.texts["small"]


def test_tokens_and_names_are_text_and_nothing_else() -> None:
    plain = Read(page("m", [(Target("n", 4, 4, False), [basis(0, ["x"] * 7, ["x"] * 7)])], ["note"]))
    hostile = Read(
        page(
            "</title><script>",
            [(Target("<b>n</b>", 4, 4, False), [basis(0, HOSTILE, HOSTILE[::-1])])],
            ["<b>note"],
        )
    )
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.texts["bdi"] == [*HOSTILE, *HOSTILE[::-1], *HOSTILE[::-1], *HOSTILE]
    assert hostile.texts["h2"] == ["<b>n</b>"]
    assert hostile.texts["title"] == ["The bases of </title><script>"]
    assert "<b>note" in hostile.texts["li"]


def test_the_page_asks_for_nothing_else() -> None:
    text = page("m", [(Target("n", 4, 4, False), [basis(0, ["x"], ["y"])])])
    read = Read(text)
    for _, attributes in read.elements:
        assert not {"src", "href", "action", "data"} & set(attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert "//" not in text
    policy = next(a["content"] for _, a in read.elements if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_the_page_is_for_light_and_dark_and_any_width() -> None:
    text = page("m", [])
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text
    assert "@media (max-width:" in text

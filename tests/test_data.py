"""Every format of data, and what is said of each that is broken."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from eckart.data import POCKET_TEXTS, SEPARATOR, is_built_in, read_pairs, read_rows, read_texts
from eckart.pocket import SKILLS, samples, split_of
from eckart.types import Text, UsageError

STSB = (
    "main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane is taking off.\tAn air plane is taking off.\n"
    'main-news\theadlines\t2013\t0002\t2.5\tHe said "no\tShe said yes"\textra\tcolumns\n'
)


def put(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refused(source: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read_texts(source, **options)
    return str(caught.value)


def words(texts: list[Text]) -> list[str]:
    return [text.text for text in texts]


def test_jsonl_rows_are_texts_or_prompts_with_completions(tmp_path: Path) -> None:
    rows = [
        {"text": "one\ntwo", "id": 3},
        {"prompt": "ask ", "completion": "answer"},
        {"text": None, "prompt": "", "completion": "alone"},
        {"text": "both", "prompt": "not", "completion": "this"},
    ]
    source = put(tmp_path, "a.jsonl", "\n\n".join(json.dumps(row) for row in rows) + "\n")
    assert read_texts(source) == [
        Text("", "one\ntwo"),
        Text("ask ", "answer"),
        Text("", "alone"),
        Text("", "both"),
    ]


def test_jsonl_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    # A line separator is part of a JSON string, whatever str.splitlines thinks.
    source = put(tmp_path, "a.jsonl", '{"text": "one\u2028two\x85"}\n')
    assert words(read_texts(source)) == ["one\u2028two\x85"]


def test_txt_is_one_text(tmp_path: Path) -> None:
    for content in ("\none\n\ntwo \n", "one\r\n\r\ntwo\r\n", "one\r\rtwo"):
        assert words(read_texts(put(tmp_path, "a.txt", content))) == ["one\n\ntwo"]


@pytest.mark.parametrize("lines", [False, True])
def test_separators_part_a_txt_and_go_before_lines(tmp_path: Path, lines: bool) -> None:
    source = put(tmp_path, "a.txt", f"one\ntwo\n{SEPARATOR}\nthree{SEPARATOR}{SEPARATOR}\n")
    assert words(read_texts(source, lines=lines)) == ["one\ntwo", "three"]


def test_lines_are_texts_where_they_are_asked_for(tmp_path: Path) -> None:
    source = put(tmp_path, "a.txt", "one\r\n\n  two\u2028still two\nthree")
    assert words(read_texts(source, lines=True)) == ["one", "two\u2028still two", "three"]


@pytest.mark.parametrize(("kind", "mark"), [("csv", ","), ("tsv", "\t")])
def test_tables_give_their_named_columns(tmp_path: Path, kind: str, mark: str) -> None:
    source = put(tmp_path, f"a.{kind}", f'id{mark}text\n1{mark}"a{mark} b\nc"\n\n2{mark}d\n')
    assert words(read_texts(source)) == [f"a{mark} b\nc", "d"]
    source = put(tmp_path, f"b.{kind}", f"completion{mark}prompt\nB{mark}A\n")
    assert read_texts(source) == [Text("A", "B")]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_sentence_pairs_give_their_first_sentences(tmp_path: Path, kind: str) -> None:
    # STS-B ships its tab-separated tables as .csv.
    source = put(tmp_path, f"sts.{kind}", STSB)
    assert read_texts(source) == [Text("", "A plane is taking off."), Text("", 'He said "no')]
    assert read_pairs(source) == [
        (5.0, "A plane is taking off.", "An air plane is taking off."),
        (2.5, 'He said "no', 'She said yes"'),
    ]


@pytest.mark.parametrize("header", ["a b c d e f text", "prompt a b c d e completion"])
def test_wide_table_with_a_header_is_no_sentence_pairs(tmp_path: Path, header: str) -> None:
    rows = header.replace(" ", "\t") + "\n" + "\t".join("ABCDEFG") + "\n"
    assert words(read_texts(put(tmp_path, "a.tsv", rows))) == ["G" if "text" in header else "AG"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.JSONL", "a.Csv", "a.TXT"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_line_ends_and_case_of_the_ending_change_nothing(
    tmp_path: Path, name: str, ending: str, mark: str
) -> None:
    content = {"jsonl": '{"text": "ein Öl"}\n', "csv": "text\nein Öl\n", "txt": "ein Öl\n"}[name[2:].lower()]
    source = put(tmp_path, name, mark + content.replace("\n", ending))
    assert read_texts(source) == [Text("", "ein Öl")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "broken JSON (Expecting property name enclosed in double quotes)"),
        ("[" * 100_000, "broken JSON (maximum recursion depth exceeded"),
        ('{"n": ' + "9" * 5000 + "}", "broken JSON (Exceeds the limit"),
        ("[1]", "expected an object"),
        ('"text"', "expected an object"),
        ("{}", "no field text, nor prompt and completion"),
        ('{"text": 3}', "field text is a number, and should be text"),
        ('{"prompt": "a"}', "no field text, nor prompt and completion"),
        ('{"prompt": "a", "completion": null}', "field completion is null, and should be text"),
        (r'{"text": "\ud83d"}', "a character that is none (surrogates not allowed)"),
    ],
)
def test_broken_row_of_jsonl_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    source = put(tmp_path, "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n{{"text": "fine"}}\n')
    assert refused(source).startswith(f"{source}, line 3: {message}")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("id,words\n1,a\n", 2, "no field text, nor prompt and completion"),
        ('id,text\n1,"a\nb"\n\n2\n', 5, "no field text, nor prompt and completion"),
        ("text\na\n" + "x" * 200_000 + "\n", 3, "broken table (field larger than field limit"),
        ('text\n"a" b\n', 2, "broken table"),
        ('text\nfine\n"never closed\nmore\n', 4, "broken table (unexpected end of data)"),
    ],
    ids=["column", "short row", "long field", "quote within", "open quote"],
)
def test_broken_row_of_a_table_is_named_by_its_line(
    tmp_path: Path, content: str, line: int, message: str
) -> None:
    source = put(tmp_path, "a.csv", content)
    assert refused(source).startswith(f"{source}, line {line}: {message}")


@pytest.mark.parametrize(
    "row",
    [
        "a\tb\tc\td\thigh\tone\ttwo",
        "a\tb\tc\td\tnan\tone\ttwo",
        "a\tb\tc\td\t3.0\tone",
        "one line of text",
    ],
)
def test_broken_sentence_pair_is_named_by_its_line(tmp_path: Path, row: str) -> None:
    source = put(tmp_path, "sts.csv", STSB + "\n" + row + "\n")
    for read in (read_texts, read_pairs):
        with pytest.raises(UsageError) as caught:
            read(source)
        assert str(caught.value).startswith(f"{source}, line 4: expected genre, file, year, id, score")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.tsv"])
def test_bytes_that_are_no_utf8_are_named_by_their_line(tmp_path: Path, name: str) -> None:
    # Far into the file: a decoder that reads in pieces counts from the start of its piece.
    source = put(tmp_path, name, b'{"text": "fine"}\n' * 5000 + b"\xe9\n")
    assert refused(source) == f"{source}, line 5001: not UTF-8 text (invalid continuation byte)"
    with pytest.raises(UsageError, match="line 5001: not UTF-8 text"):
        read_pairs(source)


@pytest.mark.parametrize("content", ["", "\n\n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.tsv"])
def test_file_without_text_is_refused(tmp_path: Path, name: str, content: str) -> None:
    source = put(tmp_path, name, content)
    assert refused(source) == f"{source} is empty: it has no text"
    with pytest.raises(UsageError, match="no sentence pairs"):
        read_pairs(source)


def test_texts_of_white_space_do_not_count(tmp_path: Path) -> None:
    source = put(tmp_path, "a.jsonl", '{"text": " \\n"}\n{"text": "one"}\n{"prompt": "", "completion": ""}\n')
    assert words(read_texts(source)) == ["one"]


@pytest.mark.parametrize("name", ["a.xml", "a.gz", "a"])
def test_other_kinds_are_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    source = put(tmp_path, name, "x")
    assert refused(source) == (
        f"{source}: data comes as .jsonl, .jsonl.gz, .json, .csv, .tsv, .arrow, .parquet, .txt, "
        f"not as {Path(name).suffix or 'this'}"
    )


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for source in (str(tmp_path / "no.jsonl"), "pocketbook.txt"):
        assert refused(source) == f"no such data file: {source}"
        with pytest.raises(UsageError, match="no such data file"):
            read_pairs(source)


def test_pocket_takes_turns_through_its_skills() -> None:
    texts = read_texts("pocket")
    assert len(texts) == POCKET_TEXTS // len(SKILLS) * len(SKILLS)
    streams = [samples(skill, "train") for skill in SKILLS]
    for text in texts[:12]:
        sample = next(streams[0])
        assert text == Text(sample.prompt, sample.completion)
        streams.append(streams.pop(0))


@pytest.mark.parametrize("skill", SKILLS)
def test_pocket_skill_is_one_stream_of_one_split(skill: str) -> None:
    for split in ("train", "test"):
        texts = read_texts(f"pocket-{skill}", split=split)
        assert len(texts) == POCKET_TEXTS
        stream = samples(skill, split)
        for text in texts[:20]:
            sample = next(stream)
            assert text == Text(sample.prompt, sample.completion)
            assert split_of(skill, sample.key) == split


def test_unknown_pocket_is_refused_with_those_there_are() -> None:
    assert refused("pocket-poems") == (
        "pocket-poems: the pocket's data are pocket, " + ", ".join(f"pocket-{skill}" for skill in SKILLS)
    )


def test_file_of_that_name_goes_before_the_pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_built_in("pocket-notes.txt")
    put(tmp_path, "pocket-notes.txt", "mine")
    assert not is_built_in("pocket-notes.txt")
    assert words(read_texts("pocket-notes.txt")) == ["mine"]


ROWS = [
    {"question": "1 + 1?", "answer": "#### 2", "id": 7},
    {"question": "2 + 2?", "answer": "#### 4", "id": 8},
]
ASKED = [Text("Question: 1 + 1?\nAnswer:", " #### 2"), Text("Question: 2 + 2?\nAnswer:", " #### 4")]


def arrow(kind: str) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def columns() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


LINES = "\n".join(json.dumps(row) for row in ROWS)
KINDS = {
    "rows.jsonl": LINES.encode(),
    "rows.jsonl.gz": gzip.compress(LINES.encode()),
    "lines.json": LINES.encode(),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "rows.csv": b"id,question,answer\n7,1 + 1?,#### 2\n8,2 + 2?,#### 4\n",
    "stream.arrow": arrow("stream"),
    "file.arrow": arrow("file"),
    "rows.parquet": columns(),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    source = put(tmp_path, name, KINDS[name])
    assert read_texts(source) == ASKED
    assert [{**row, "id": int(row["id"])} for row in read_rows(source)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"plain", "broken gzip"),
        ("a.jsonl.gz", gzip.compress(b"x" * 999, mtime=0)[:-9], "broken gzip"),
        ("a.arrow", b"nonsense", "broken .arrow"),
        ("a.arrow", b"", "broken .arrow"),
        ("a.parquet", b"nonsense", "broken .parquet"),
        ("a.json", b"[1]", "expected an object"),
        ("a.json", b"[{}", "broken JSON"),
        ("a.json", b"[]", "is empty"),
        ("a.json", b'[{"text": "a"}, {"b": 1}]', "no field text"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    source = put(tmp_path, name, content)
    said = refused(source)
    assert said.startswith(source)
    assert message in said
    assert "\n" not in said


def test_rows_are_named_by_their_entry(tmp_path: Path) -> None:
    source = put(tmp_path, "a.json", '[{"text": "a"},\n\n {"b": 1}]')
    assert refused(source).startswith(f"{source}, entry 2: no field text, nor prompt and completion, nor ")
    assert "there is b" in refused(source)


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"problem": "p", "solution": "s"}, "Problem: p\nSolution:", " s"),
        ({"dialogue": "A: a\r\nB: b", "summary": "s ", "id": "1"}, "Dialogue:\nA: a\nB: b\nSummary:", " s"),
        ({"article": "a", "highlights": "h"}, "Article:\na\nSummary:", " h"),
        ({"document": "d", "summary": "s"}, "Document:\nd\nSummary:", " s"),
        ({"prompt": "def f():\n", "canonical_solution": "    return 1"}, "def f():\n", "    return 1"),
        ({"instruction": "i", "output": "o"}, "Instruction: i\nResponse:", " o"),
        ({"instruction": "i", "input": "n", "output": "o"}, "Instruction: i\nInput: n\nResponse:", " o"),
        (
            {"text": "t", "code": "a\r\nb", "test_list": ["assert 1", "assert 2"]},
            '"""\nt\nassert 1\nassert 2\n"""\n',
            "a\nb",
        ),
        ({"text": "t", "code": "c"}, "", "t"),
        ({"question": "q", "answer": "a", "text": "t"}, "", "t"),
    ],
)
def test_a_row_of_a_known_shape_asks_in_its_own_words(
    tmp_path: Path, row: dict[str, Any], prompt: str, completion: str
) -> None:
    assert read_texts(put(tmp_path, "a.jsonl", json.dumps(row))) == [Text(prompt, completion)]


def test_fields_are_taken_as_they_stand(tmp_path: Path) -> None:
    source = put(tmp_path, "a.jsonl", json.dumps({"text": "t", "ask": " a", "say": "b ", "n": 3}))
    assert read_texts(source, fields="ask,say") == [Text(" a", "b ")]
    assert read_texts(source, fields="say") == [Text("", "b ")]
    assert refused(source, fields="ask,n").startswith(
        f"{source}, line 1: field n is a number, not text; there is text"
    )
    assert refused(source, fields="ask,none") == (
        f"{source}, line 1: no field none; there is text, ask, say, n"
    )
    for fields in ("a,b,c", "a,", "", ","):
        assert "give PROMPT,COMPLETION" in refused(source, fields=fields)
    assert "has no fields" in refused(put(tmp_path, "a.txt", "x"), fields="a")


def test_the_pocket_gives_as_many_as_are_asked_for() -> None:
    assert len(read_texts("pocket-math", count=POCKET_TEXTS + 7)) == POCKET_TEXTS + 7
    few, many = read_texts("pocket", count=30), read_texts("pocket", count=60)
    assert few == many[:30]


@pytest.mark.parametrize("source", ["some-org/some-data", "some-org/some-data:config", "a/b:c@validation"])
def test_a_data_set_is_loaded_by_its_name_config_and_split(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_texts(source, split="test") == ASKED
    assert asked == [
        {
            "some-org/some-data": ("some-org/some-data", None, "test"),
            "some-org/some-data:config": ("some-org/some-data", "config", "test"),
            "a/b:c@validation": ("a/b", "c", "validation"),
        }[source]
    ]


def test_a_data_set_that_cannot_be_had_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert (
        refused("a/b") == "no such data: a/b is not a file, and no data set that can be loaded (no network)"
    )
    # What ends as a file does is one.
    assert refused("a/b.jsonl") == "no such data file: a/b.jsonl"


@pytest.mark.parametrize(("source", "library"), [("rows.parquet", "pyarrow"), ("a/b", "datasets")])
def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    if library == "pyarrow":
        source = put(tmp_path, source, KINDS[source])
    assert 'pip install "eckart[eval]"' in refused(source)


@pytest.mark.parametrize("kind", [".arrow", ".parquet"])
def test_a_table_that_would_end_the_process_is_refused(tmp_path: Path, kind: str) -> None:
    """Offsets of texts beyond their bytes: pyarrow reads them, and whoever looks at a value dies."""
    path, table = tmp_path / f"a{kind}", pa.table({"text": ["abc", "def"]})
    if kind == ".arrow":
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)
    else:
        parquet.write_table(table, path, use_dictionary=False, compression="none", write_statistics=False)
    good, bad = {
        ".arrow": (np.array([0, 3, 6], dtype=np.int32), np.array([0, 3, 2 * 10**9], dtype=np.int32)),
        ".parquet": (np.frombuffer(b"abc", np.uint8), np.frombuffer(b"\xff\xfe\xfd", np.uint8)),
    }[kind]
    content = path.read_bytes()
    assert content.count(good.tobytes()) == 1
    assert words(read_texts(str(path))) == ["abc", "def"]
    path.write_bytes(content.replace(good.tobytes(), bad.tobytes()))
    with pytest.raises(UsageError, match=rf"broken {kind}"):
        read_texts(str(path))


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eckart.data.files.LARGEST", 1000)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"text": "w" * 900}) + "\n")
    assert len(read_texts(str(path))) == 1
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"text": "w" * 10_000_000}) + "\n")
    with pytest.raises(UsageError, match="when unpacked"):
        read_texts(str(path))


def test_tables_with_semicolons_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id;text\n1;w1, w2\n2;w3\n")
    assert [text.text for text in read_texts(str(path))] == ["w1, w2", "w3"]

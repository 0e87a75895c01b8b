"""GGUF files by a converter of llama.cpp's kind: what it is asked, what comes back, and what it may say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf_models import tiny

import eckart
from eckart.types import EckartError, UsageError

HELPERS = str(Path(__file__).parents[1])
TEXTS = ["once upon a time there was a little model"]
CONVERTER = """
import sys
from pathlib import Path
sys.path.insert(0, {helpers!r})
import gguf_models
folder, _, outfile, _, kind = sys.argv[1:]
assert kind == {kind!r}, kind
assert "quantization_config" not in (Path(folder) / "config.json").read_text()
gguf_models.written(Path(folder), Path(outfile))
"""


def script(kind: str) -> str:
    return CONVERTER.format(helpers=HELPERS, kind=kind)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer of bytes, as a plain folder."""
    return tiny(tmp_path_factory.mktemp("gguf") / "plain")


@pytest.fixture
def converter(tmp_path: Path) -> Any:
    """A script in the place of llama.cpp's."""

    def make(content: str) -> Path:
        path = tmp_path / "llama.cpp" / "convert_hf_to_gguf.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    return make


def refused(error: type[EckartError], words: str, *asked: Any, **how: Any) -> None:
    out = Path(asked[1])
    with pytest.raises(error, match=words):
        eckart.export(*asked, **{"format": "gguf", **how})
    assert not out.exists()


def test_a_plain_folder_is_handed_over_as_it_is(plain: Path, converter: Any, tmp_path: Path) -> None:
    made = eckart.export(plain, tmp_path / "out", format="gguf", converter=converter(script("auto")))
    assert sorted(made.files) == ["export.json", "model.gguf"]
    assert [check.relative < 1e-5 for check in made.checks] == [True, True]
    assert made.bytes.after == (tmp_path / "out" / "model.gguf").stat().st_size
    assert made.notes == []
    values = [
        eckart.evaluate(model, "perplexity", TEXTS).value
        for model in (tmp_path / "out" / "model.gguf", plain)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_factors_are_multiplied_out_first(
    plain: Path, converter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eckart.compress(plain, tmp_path / "small", keep=0.7, method="svd")
    monkeypatch.setenv("LLAMA_CPP", str(converter(script("f32")).parent))
    made = eckart.export(tmp_path / "small", tmp_path / "out", format="gguf", type="f32")
    assert len(made.checks) == 4
    assert all(check.relative < 1e-5 for check in made.checks)
    assert "this gains no size" in made.notes[0]


def test_another_model_in_the_file_is_found_out(plain: Path, converter: Any, tmp_path: Path) -> None:
    spoilt = script("auto").replace(
        "folder, _,",
        "plainly = gguf_models.permuted; "
        "gguf_models.permuted = lambda *given: 1.5 * plainly(*given); folder, _,",
    )
    refused(EckartError, "in the GGUF file the answers", plain, tmp_path / "out", converter=converter(spoilt))


def test_what_nothing_here_reads_again_is_noted(plain: Path, converter: Any, tmp_path: Path) -> None:
    unknown = converter("import sys; open(sys.argv[3], 'wb').write(b'GGUF and more')")
    made = eckart.export(plain, tmp_path / "out", format="gguf", converter=unknown)
    assert made.checks == []
    assert "was not read again" in made.notes[0]


def test_a_converter_s_last_words_are_the_error(plain: Path, converter: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unfit = converter("raise NotImplementedError('Model TinyForNothing is not supported')")
    refused(EckartError, "Model TinyForNothing is not supported; nothing", plain, out, converter=unfit)
    lacking = converter("import no_such_package")
    refused(UsageError, "pip install no_such_package", plain, out, converter=lacking)
    refused(EckartError, "it ended with 0; nothing", plain, out, converter=converter("pass"))


def test_wrong_requests(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    out = tmp_path / "out"
    refused(UsageError, "not on the path: give --converter FILE", plain, out)
    refused(UsageError, "nowhere is not there", plain, out, converter="nowhere")
    refused(UsageError, "--type q3: it is one of", plain, out, type="q3")
    refused(UsageError, "are for --format gguf", plain, out, type="f16", format="dense")

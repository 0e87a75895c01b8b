"""`eckart analyze` from outside: the JSON, the folder, what people see, and what is refused."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, LAYERS, LLAMA, T5
from outside import Eckart, listing
from safetensors.torch import load_file, save_file

from eckart.types import Analysis

FILES = {"analysis.json", "matrices.csv", "spectra.csv", "cosines.csv", "sizes.csv", "report.html"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_json_and_files(process: Eckart, stored: Any, data: str, tmp_path: Path) -> None:
    options = ["--data", data, "-o", "out", "--ranks", "12,24", "--targets", "q_proj,up_proj"]
    made = process("analyze", stored(LLAMA), *options, "--json").json
    assert set(made) == {
        "out",
        "model",
        "matrices",
        "seconds",
        "seconds_per_matrix",
        "peak_memory_bytes",
        "analysis",
    }
    assert (made["out"], made["model"], made["matrices"]) == ("out", "llama", 2 * LAYERS)
    assert set(made["seconds_per_matrix"]) == {"48x48", "80x48"}
    assert 0 < sum(made["seconds_per_matrix"].values()) < made["seconds"]
    assert made["peak_memory_bytes"] > 1e8
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    analysis = Analysis.model_validate_json((out / "analysis.json").read_text(encoding="utf-8"))
    assert str(tmp_path) not in (out / "analysis.json").read_text(encoding="utf-8")
    short = analysis.model_dump(mode="json")
    for matrix, given in zip(short["matrices"], made["analysis"]["matrices"], strict=True):
        assert len(matrix.pop("values")) == len(matrix.pop("weighted_values")) == 48
        assert given["energy_ranks"] == matrix["energy_ranks"]
        assert set(given) == set(matrix)
    spectra = rows(out / "spectra.csv")
    assert len(spectra) == 2 * LAYERS * 48
    assert list(spectra[0]) == ["name", "rank", "value", "error", "weighted_value", "weighted_error"]
    assert [float(row["error"]) for row in spectra if row["rank"] == "48"] == [0] * 2 * LAYERS
    matrices = rows(out / "matrices.csv")
    assert [row["name"] for row in matrices] == [matrix.name for matrix in analysis.matrices]
    assert int(matrices[0]["rank_0.9"]) == analysis.matrices[0].energy_ranks["0.9"]
    assert [int(row["rank"]) for row in rows(out / "cosines.csv")] == [12, 24] * 2 * LAYERS
    sizes = rows(out / "sizes.csv")
    assert [int(row["parameters"]) for row in sizes] == [size.parameters for size in analysis.sizes]
    assert "<!DOCTYPE html>" in (out / "report.html").read_text(encoding="utf-8")


def test_the_same_in_another_process(
    eckart: Eckart, process: Eckart, stored: Any, data: str, tmp_path: Path
) -> None:
    assert eckart("analyze", stored(T5), "--data", data, "-o", "one").code == 0
    assert process("analyze", stored(T5), "--data", data, "--no-cache", "-o", "two").code == 0
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pictures(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert eckart("analyze", stored(LLAMA), "-o", "out", "--png").code == 0
    pictures = {path.name for path in (tmp_path / "out").iterdir()} - FILES
    assert "energy.png" in pictures
    for name in pictures:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_is_the_one_that_report_makes_of_the_folder(
    eckart: Eckart, process: Eckart, stored: Any, data: str, tmp_path: Path
) -> None:
    assert eckart("analyze", stored(LLAMA), "--data", data, "-o", "out").code == 0
    assert process("report", "out", "-o", "again").code == 0
    pages = [(tmp_path / folder / "report.html").read_bytes() for folder in ("out", "again")]
    assert pages[0] == pages[1]


def test_people_see_tables(eckart: Eckart, stored: Any, data: str, tmp_path: Path) -> None:
    before = listing(tmp_path)
    answer = eckart("analyze", stored(LLAMA))
    assert answer.code == 0
    assert all(line.startswith("note: ") for line in answer.err.splitlines())
    assert listing(tmp_path) == before
    for words in ("LlamaForCausalLM", "48x48", "at 24", "pivoted", "-o DIR", "at the peak"):
        assert words in answer.out
    assert "of the data" not in answer.out
    assert "tokens of the data" in eckart("analyze", stored(BERT), "--data", data).out
    tied = eckart("analyze", stored(T5), "--fast").out
    assert "tied: shared.weight = " in tied


def test_a_quick_look(eckart: Eckart) -> None:
    answer = eckart("analyze", "pocket", "--fast", "--layers", "0", "--json")
    made = answer.json["analysis"]
    assert {matrix["exact"] for matrix in made["matrices"] if matrix["out_features"] > 64} == {False}
    assert made["sizes"][0]["error"] is None
    assert "> 64" in answer.err


def test_a_folder_that_compress_wrote_is_refused(eckart: Eckart, stored: Any) -> None:
    assert eckart("compress", stored(LLAMA), "-o", "small", "--keep", "0.6").code == 0
    eckart("analyze", "small").fails(2, "compressed already; analyze the model it came from")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ranks", "0"], ["--ranks are 1 or more"]),
        (["--ranks", "1.5"], ["--ranks 1.5: not a whole number"]),
        (["--ranks", "x"], ["--ranks x: not a number"]),
        (["--ranks", ","], ["--ranks is empty"]),
        (["--ranks", "49"], ["no weight has more than 48 singular values"]),
        (["--targets", "q_prj"], ["q_prj fits no linear layer", "did you mean q_proj"]),
        (["--layers", "7"], ["--layers 7"]),
        (["--samples", "0", "--data", "pocket"], ["--samples and --max-length are 1 or more"]),
        (["-o", "."], ["exists already"]),
        (["--png"], ["--png draws into a folder"]),
        (["--device", "nowhere"], ["device nowhere"]),
        (["--data", "nowhere.txt"], ["nowhere.txt"]),
    ],
)
def test_wrong_requests(
    eckart: Eckart, stored: Any, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    before = listing(tmp_path)
    eckart("analyze", stored(LLAMA), *options).fails(2, *words)
    assert listing(tmp_path) == before


def test_data_without_a_text(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    answer = eckart("analyze", stored(LLAMA), "--data", "empty.txt", "-o", "out")
    assert answer.code in (1, 2)
    answer.fails(answer.code, "empty.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(eckart: Eckart, tmp_path: Path, bad: float) -> None:
    LLAMA.build().save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = bad
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    for options in ([], ["--fast"]):
        answer = eckart("analyze", "model", "-o", "out", *options)
        answer.fails(1, "model.layers.1.mlp.up_proj.weight", "not finite")
    assert listing(tmp_path).keys() == {"model", *(f"model/{path.name}" for path in Path("model").iterdir())}


def test_a_shard_that_is_missing_is_named(eckart: Eckart, tmp_path: Path) -> None:
    LLAMA.build().save_pretrained(tmp_path / "model", max_shard_size="40KB")
    (tmp_path / "model" / "model-00002-of-00005.safetensors").unlink()
    eckart("analyze", "model").fails(1, "model-00002-of-00005.safetensors", "missing")


def test_a_weight_that_is_missing(eckart: Eckart, tmp_path: Path) -> None:
    LLAMA.build().save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    eckart("analyze", "model").fails(1, "lacks 1 weights", "model.layers.1.mlp.up_proj.weight")


def test_integers_have_no_spectrum(eckart: Eckart, tmp_path: Path) -> None:
    LLAMA.build().save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    eckart("analyze", "model").fails(1, name, "int8", "quantized")


@pytest.mark.parametrize(
    "moment", ["eckart.analysis.spectra:analyze_weight", "eckart.analysis.folder:analysis_files"]
)
def test_an_interruption_leaves_nothing(process: Eckart, tmp_path: Path, moment: str) -> None:
    before = listing(tmp_path)
    answer = process("analyze", "pocket", "-o", "new/out", interrupt_at=[moment], signal=int(signal.SIGINT))
    answer.fails(1, "interrupted")
    assert listing(tmp_path) == before

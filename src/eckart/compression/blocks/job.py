"""The main job from a folder to a folder, with one block of the model in memory at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eckart import checkpoint, folders
from eckart.calibrate import NotWalkableError
from eckart.compression.blocks.clock import Clock
from eckart.compression.blocks.portion import Portion, portion
from eckart.compression.blocks.store import MODEL, BlockStore
from eckart.compression.blocks.together import Together
from eckart.compression.blocks.units import begun, tidy
from eckart.compression.course import Course
from eckart.compression.folder.manifests import Before, make_manifest, seal, summary_of
from eckart.estimate import budget
from eckart.evaluation.machine import give_back
from eckart.model import loading, probe, replacing, saving, sentences
from eckart.model.streaming import NotStoredByBlockError, Streamed
from eckart.model.text import begins
from eckart.recovery.runs import working_folder
from eckart.types import MANIFEST, Manifest, Recipe, Text, Track

WORDS, PORTION = "words", "portion.json"


def settled(out: Path) -> Manifest | None:
    """The manifest of a folder that was complete when its run was killed, and tidied up no more."""
    work = Path(f"{out}.work")
    if not begun(work) or (work / MODEL).exists() or not (out / MANIFEST).is_file():
        return None
    shutil.rmtree(work, ignore_errors=True)
    return Manifest.model_validate_json((out / MANIFEST).read_bytes())


@dataclass
class Job:
    """What is asked for.

    Attributes:
        source: the model's name.
        blocks: whether to go block by block; `None` leaves it to what fits.
        memory: bytes that may be taken; `None` is what is free.
        clock: where the time went.
    """

    folder: Path
    source: str
    out: Path
    recipe: Recipe
    texts: Sequence[Text]
    device: str
    dtype: str
    blocks: bool | None
    memory: int | None
    clock: Clock = field(default_factory=Clock)

    def run(
        self, request: Callable[[], dict[str, Any]], resume: bool, track: Track, whole: list[str]
    ) -> Manifest | None:
        """Do it, where the model does not fit as a whole or blocks were asked for; else `None`.

        Finished pieces are in `<out>.work` until `out` is complete, from which a run can be gone on with.

        Args:
            request: what makes it the same run; asked only where there is one, as it reads every byte.
            whole: is told why the model is cut as a whole after all.
        """
        work = Path(f"{self.out}.work")
        # What was begun so goes on so, however much memory is free today.
        blocks = True if resume and begun(work) else self.blocks
        config = loading.load_config(self.folder)
        part = portion(self.folder, config, self.recipe, blocks, self.memory, self.device)
        if part is None:
            return None
        together = Together(self.device)
        try:
            # The first makes the folder that all use, and looks at what is in it.
            with working_folder(work, request() if together.leads else {}, resume, begun):
                if together.leads:
                    tidy(work)
                    self._note_portion(work, part)
                together.wait()
                return self._run(work, self._portion(work, part), together, track)
        except (NotWalkableError, NotStoredByBlockError) as error:
            if blocks:
                raise
            whole.append(f"the model was read whole: {error}")
            return None

    def _note_portion(self, work: Path, part: Portion) -> None:
        if not (begun(work) and (work / PORTION).is_file()):
            folders.replace_file(work / PORTION, json.dumps({"batch_tokens": part.batch_tokens}).encode())

    def _portion(self, work: Path, part: Portion) -> Portion:
        """With the batches of who began: those that the memory that is free now allows round otherwise."""
        if self.memory is not None:
            return part
        return replace(part, batch_tokens=json.loads((work / PORTION).read_bytes())["batch_tokens"])

    def _run(self, work: Path, part: Portion, together: Together, track: Track) -> Manifest:
        give_back()
        folder, device = self.folder, str(together.device)
        known = self.texts or loading.has_tokenizer(folder)
        tokenizer = loading.load_tokenizer(folder, self.recipe.bos) if known else None
        streamed = Streamed(checkpoint.open_checkpoint(folder), device, self.dtype)
        with streamed.on_demand():
            before = Before.of(streamed.model, self.source)
        store = BlockStore(streamed, tokenizer, self.recipe, self.texts, work, part, together, track)
        self.clock = store.clock
        if self.texts:
            self.recipe = self.recipe.model_copy(update={"bos": begins(store.model, tokenizer)})
        course = Course(store, store.targets, self.recipe)
        budget.require_possible(course.bench.sites, self.recipe, course.bench.prices)
        measures = together.leads and not store.divided.chooses
        reference = store.reference() if measures else None
        cut = course.cut(self.recipe)
        if cut is None:
            together.wait()
            return Manifest.model_validate_json((self.out / MANIFEST).read_bytes())
        if reference is not None:
            cut = cut.measured(reference, store.moved(reference))
        model = store.model
        replacing.describe(model)
        manifest = make_manifest(model, before, self.recipe, cut, course.tokens, store.notes)
        made, words = work / MODEL, work / WORDS
        checkpoint.write_index(made, [store.shard(piece).name for piece in store.parts])
        words.mkdir(exist_ok=True)
        summary = summary_of(manifest)
        saving.save_model(model, words, self.source, summary, weights=False, origin=self.folder)
        # Where there are weights already, transformers would take them for those of an older model.
        for path in words.iterdir():
            path.replace(made / path.name)
        folders.copy_companions(folder, made, sentences.companions(folder))
        with store.streamed.on_demand():
            manifest.probe = probe.answered(model, before.probe)
        seal(manifest, made)
        folders.settle(made, self.out)
        together.wait()
        return manifest

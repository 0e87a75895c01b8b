"""A model of which one block at a time is in memory, cut from its first block to its last."""

from __future__ import annotations

from contextlib import ExitStack

from eckart import calibrate, checkpoint
from eckart.compression.bench import Ranks
from eckart.compression.blockwise.choosing import CHOSEN, Choice
from eckart.compression.blockwise.course import RECORDS, Course
from eckart.compression.blockwise.looking import Look
from eckart.compression.cutting import Cut, held_out, rounding_notes
from eckart.compression.refit import place_plainly, refit_block
from eckart.compression.search import Found, Search
from eckart.estimate import budget
from eckart.evaluation import Moved
from eckart.recipes import making

UNFITTED = "not refitted: on held-out data the refit moved the model further"


class AgainError(Exception):
    """The model has to be opened anew: what was written is not what is wanted."""


def cut_blocks(course: Course) -> Cut | None:
    """Do all of it; what is done already is not done again.

    Processes share what is looked at and solved. Where cuts are then measured or refitted, the first does
    that, and the others have nothing to tell.

    Raises:
        AgainError: see there.
    """
    recipe, bench = course.recipe, course.bench
    found = Search(bench, None).ranks_for(recipe) if making.knows_ranks(recipe) else None
    direct = found is not None and recipe.recovery != "refit"
    Look(course, found.ranks if found and direct else None).run()
    if found and direct:
        course.write_all(found.ranks)
        return _told(course, found, None, None, []) if course.together.leads else None
    if not course.together.leads:
        return None
    course.together = course.together.alone()
    for target in bench.targets:
        bench.recall(target)
    with course.clock.of("measure"):
        choice = Choice(course)
        found = choice.ranks(found)
    if recipe.recovery != "refit" or all(rank is None for rank in found.ranks):
        course.write_all(found.ranks)
        return _told(course, found, choice, choice.delivered(), [])
    if course.units.has(CHOSEN, "unfitted"):
        course.write_all(found.ranks)
        return _told(course, found, choice, choice.delivered(), [UNFITTED])
    plain = choice.search.measure(found.ranks) if choice.reference else None
    with course.clock.of("refit"):
        _refit(course, found.ranks)
    moved = choice.delivered()
    if plain and moved and moved.divergence > plain.divergence:
        course.units.put(CHOSEN, "unfitted", {}, {})
        for block in course.parts:
            course.units.drop(RECORDS, block)
        raise AgainError
    return _told(course, found, choice, moved, [])


def _refit(course: Course, ranks: Ranks) -> None:
    """Refit front to back, and write each block as soon as it is cut."""
    wanted = dict(zip(course.names, ranks, strict=True))
    batches = course.divided.fitting(course.portion.batch_tokens)
    with ExitStack() as stack:
        spill = stack.enter_context(checkpoint.Spill(course.work, course.portion.waiting))
        dense, cut = (
            stack.enter_context(calibrate.Walk(course.model, course.blocks, batches, shelf=spill))
            for _ in range(2)
        )
        for module in course.track(dense.path(), "refitting", len(course.order)):
            block = course.streamed.name_of(module)
            if course.written(block):
                with course.brought(module):
                    dense.step()
                course.recall(block)
                with course.brought(module):
                    cut.step()
                continue
            with course.brought(module):
                chosen = [(target, wanted[target.name]) for target in course.at[block]]
                placed = refit_block(course.bench, chosen, dense, cut, keep_dense=False)
                for target, rank in chosen:
                    if target.name not in placed:
                        placed[target.name] = place_plainly(course.bench, target, rank, keep_dense=False)
                course.write(block, [placed[target.name] for target, _ in chosen])
            course.recall(block)
    course.write_all(ranks)


def _told(course: Course, found: Found, choice: Choice | None, moved: Moved | None, notes: list[str]) -> Cut:
    course.recall_all()
    measured = held_out(choice.reference if choice else None, moved, found)
    notes = budget.dense_notes(course.bench.targets, course.recipe, found.ranks) + notes
    notes += rounding_notes(course.recipe, measured)
    return Cut([course.records[name] for name in course.names], measured, notes)

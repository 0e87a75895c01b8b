"""One task on one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eckart.data import named
from eckart.evaluation import Request, Score, keeping
from eckart.evaluation.measuring import identity, load_dense, make_settings, read_material, run
from eckart.evaluation.progress import shown
from eckart.model import adapters, loading
from eckart.recipes import verbs
from eckart.recipes.calling import checked
from eckart.types import On, Track, UsageError


@checked(verbs.EvaluateRun)
def evaluate(
    model: Any,
    task: str,
    data: Any = None,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    fields: str | None = None,
    on: On | None = None,
    shots: int | None = None,
    examples: Any = None,
    out: str | Path | None = None,
    max_new_tokens: int | None = None,
    batch: int | None = None,
    k: Sequence[int] | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    allow_code_execution: bool = False,
    include: str | None = None,
    against: Any = None,
    drop_unused: bool = False,
    adapter: str | Path | None = None,
    bos: bool | None = None,
    track: Track = shown,
) -> Score:
    """Measure a model on a task.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model with its `tokenizer`. It is
            measured in evaluation mode, and left in the mode it came in.
        task: `perplexity` (of `data`), `stsb` (`data` a sentence-pair file), `gsm8k`, `math`, `samsum`,
            `pairs` (any prompts with completions), `humaneval`, `mbpp`, `pocket` (its three skills) or one of
            them: `pocket-math`, `pocket-code`, `pocket-stories`; or `lm-eval:NAME`, any of the harness's.
        data: a file, a folder or pattern of files, a data set of the hub, whose split `test` is read, or
            texts or rows in memory.
        limit: texts, pairs, problems or samples to use at most; default all of a file, 200 of a pocket skill.
        max_length: tokens at once at most; default 512 where text is read, and what the model can take where
            it writes.
        fields: `PROMPT,COMPLETION`, the names of the fields in the data and the examples.
        on: of `perplexity`, what the loss of a chat is of: its `answers`, the default, or `all` of it.
        shots, examples: so many worked examples, the first of a file, before each prompt; of the harness's
            tasks `shots` alone.
        out: a folder for the answers, one by one, and the score; the same request goes on with it.
        max_new_tokens: that an answer has at most; default by the task.
        batch: prompts at once.
        k, samples, temperature, seed: pass@k from so many programs for each problem, drawn at a temperature.
        allow_code_execution: run what the model wrote, on this machine.
        include: a folder with more of the harness's tasks.
        against: of `perplexity`, the dense model (a folder, a hub id or loaded): the divergence from it, how
            often both find the same token likeliest, the ratio of perplexities, each with its standard error,
            and how much both repeat themselves.
        drop_unused: read the model without tensors that its class has no weight for, instead of refusing.
        adapter: a folder of peft's, merged into the model in float32 first.
        bos: begin every text with the BOS token, or with none; default as the tokenizer does.

    Raises:
        UsageError: an unknown task, missing or wrong data, an option that the task has no use for, a model
            that cannot do the task, or a folder with something else in it.
        EckartError: the measurement failed.
    """
    data, examples = named(data), named(examples)
    settings = make_settings(
        task,
        data,
        {
            "limit": limit,
            "max_length": max_length,
            "max_new_tokens": max_new_tokens,
            "batch": batch,
            "shots": shots,
            "k": None if k is None else tuple(k),
            "samples": samples,
            "temperature": temperature,
            "seed": seed,
            "include": include,
            "against": against,
            "allow_code_execution": allow_code_execution or None,
            "fields": fields,
            "on": on,
            "examples": examples,
            "out": out,
        },
    )
    if adapter is not None:
        adapters.require_adapter(Path(adapter))
    if out is not None:
        keeping.refuse_foreign(Path(out))
    if isinstance(model, (str, Path)):
        folder = loading.find_model(model)
        with loading.dropping(drop_unused):
            config = loading.load_config(folder)
            material = read_material(task, data, loading.generates(config), fields, include, on or "answers")
            tokenizer = loading.load_tokenizer(folder, bos)
            name, model = str(model), loading.load_model(folder, device, dtype)
            model = model if adapter is None else adapters.merge(model, Path(adapter))
    else:
        loading.require_transformers(model)
        material = read_material(task, data, bool(model.can_generate()), fields, include, on or "answers")
        name = type(model).__name__
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
    with loading.dropping(drop_unused):
        dense = load_dense(against, tokenizer, device, dtype)
    request = Request(task, model, tokenizer, material[:limit], settings, track=track, against=dense)
    if out is not None:
        request.kept = keeping.Kept(Path(out), identity(request, name))
    score = run(request)
    request.kept.finish(score.as_json())
    return score

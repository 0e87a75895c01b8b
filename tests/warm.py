"""One process that has imported torch, and runs `eckart` in forks of itself: whole processes, at no wait.

Reads a request a line (JSON) and answers with the exit code, once the fork has ended. A request may ask for
a signal at the moment that a function is entered, for a limit on the size of files, for another program
in the place of a comparison's processes, and for variables of the environment (`None` takes one out).
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch

import eckart
from eckart import cli
from eckart.comparison import workers

LONGEST_SECONDS = 1000


def _signal_on_entry(place: str, number: int) -> None:
    """Make `module:attribute` send this process a signal before it does its work."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    wrapped = getattr(owner, name)

    def interrupting(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return wrapped(*args, **options)

    setattr(owner, name, interrupting)


def _become(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    for path, number in (("/dev/null", 0), (request["stdout"], 1), (request["stderr"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    for name, value in request.get("environment", {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    sys.argv = ["eckart", *request["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The tests may have been started by nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.alarm(LONGEST_SECONDS)
    if size := request.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if worker := request.get("worker"):
        workers.WORKER = worker
    for place in request.get("interrupt_at", []):
        _signal_on_entry(place, request["signal"])


def _run() -> int:
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else end.code is not None
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End without taking the interpreter down, which in a fork copies all of its memory first."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def warm_up() -> None:
    """Go through a whole run, so that what libraries import late is there before the first fork."""
    sys.path.append(str(Path(__file__).parent))
    from architectures import LLAMA, tiny_tokenizer, write_data

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / "model"
        LLAMA.build().save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
        data = str(write_data(folder / "words.jsonl"))
        eckart.compress(model, folder / "out", keep=0.8, data=data)
        eckart.evaluate(folder / "out", "perplexity", data)


def main() -> None:
    torch.set_num_threads(1)
    warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(request)
            _end(_run())
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    _end(0)


if __name__ == "__main__":
    main()

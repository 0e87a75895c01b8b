"""Stands in for a method's process in a comparison: rows out of nothing, and ways to go wrong.

Reads one request. `STUB` in the environment is JSON: `log`, a file that gets a line for each request; and for
a method what it does instead at a size: `error`, `note`, `kill`, `exit`, `half` (death in the middle of a
line) or `wait` (for ever, its process id in the file of that name).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def value(method: str, keep: float) -> float:
    """What the stub measures: worse where less is kept, by how long the method's name is."""
    return 2.0 if method == "dense" else 2.0 + (1 - keep) * 100 / len(method)


def main() -> None:
    request = json.loads(sys.stdin.readline())
    does = json.loads(os.environ["STUB"])
    with open(does["log"], "a") as log:
        log.write(json.dumps(request) + "\n")
    method = request["method"]
    mine = does.get(method, {})
    if "error" in mine:
        say(error=mine["error"], exit_code=mine.get("exit_code", 1))
        return
    if "note" in mine:
        say(note=mine["note"])
    say(begin="calibrating", total=2)
    say(step=1)
    say(step=1)
    for keep in request["keeps"]:
        what, told = mine.get(str(keep), (None, None))
        row = {
            "method": method,
            "keep": keep,
            "of": request["of"],
            "task": request["task"],
            "parameters": int(1000 * keep),
            "targets_parameters": int(800 * keep),
            "seconds": 1.5,
            "peak_memory_bytes": 10**8,
        }
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            sys.stderr.write(f"Traceback\n{told}\n")
            sys.exit(3)
        elif what == "half":
            sys.stdout.write('{"row": {"method"')
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "wait":
            with open(told, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(1000)
        elif what == "note":
            say(note=told, keep=keep)
        if what == "error":
            say(row={**row, "error": told})
        else:
            say(row={**row, "metric": "perplexity", "value": value(method, keep), "loss": 0.5})


if __name__ == "__main__":
    main()

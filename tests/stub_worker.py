"""Stands in for a method's process in a comparison: rows out of nothing, and ways to go wrong.

Reads one request. Its argument is JSON: `log`, a file that gets a line for each request; and for a method
what it does instead at a size: `error`, `note`, `kill`, `exit`, `half` (death in the middle of a line),
`wait` (for ever, its process id in a file beside the log) or `stop` (once the row before is in the table,
send a signal to who asked, and wait).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def value(method: str, keep: float) -> float:
    """What the stub measures: worse where less is kept, by how long the method's name is."""
    return 2.0 if method == "dense" else 2.0 + (1 - keep) * 100 / len(method)


def main() -> None:
    request = json.loads(sys.stdin.readline())
    does = json.loads(sys.argv[1])
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
            "of": request["protocol"]["of"],
            "task": request["protocol"]["task"],
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
        elif what in ("wait", "stop"):
            with open(does["log"] + ".pid", "w") as file:
                file.write(str(os.getpid()))
            if what == "stop":
                number, table, row = told
                while row not in Path(table).read_text():
                    time.sleep(0.01)
                os.kill(os.getppid(), number)
            time.sleep(1000)
        elif what == "note":
            say(note=told, keep=keep)
        if what == "error":
            say(row={**row, "error": told})
        else:
            say(row={**row, "metric": "perplexity", "value": value(method, keep), "loss": 0.5})


if __name__ == "__main__":
    main()

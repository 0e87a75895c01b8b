"""The worker that runs untrusted generated functions; started by `grading.py`, never imported.

It runs as `python -I -S sandbox.py` and imports nothing of this package. It reads one JSON job a
line ({"source", "tests"}) and answers one JSON line (true or false) for each. The source was
checked against the whitelist before it came here; the limits below stop what a whitelist cannot
see: endless loops, huge results, endless recursion.
"""

import builtins
import json
import resource
import signal
import sys

SECONDS = 1.0
MEMORY = 512 * 2**20
BUILTINS = """
    abs all any bool dict divmod enumerate float int isinstance len list map max min range
    reversed round set sorted str sum tuple zip filter ord chr pow AssertionError
"""


class OutOfTime(BaseException):
    """Raised by the alarm; not an Exception, though whitelisted code cannot catch anything."""


def _alarm(signum: int, frame: object) -> None:
    raise OutOfTime


def _passes(source: str, tests: list[str]) -> bool:
    allowed = {name: getattr(builtins, name) for name in BUILTINS.split()}
    scope: dict[str, object] = {"__builtins__": allowed}
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        exec(compile(source, "<generated>", "exec"), scope)
        for test in tests:
            exec(compile(test, "<test>", "exec"), scope)
    except BaseException:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True


def main() -> None:
    """Answer jobs until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGALRM, _alarm)
    sys.setrecursionlimit(400)
    for line in sys.stdin:
        job = json.loads(line)
        # The processor limit is per job: what is used so far plus two seconds, then SIGKILL. It
        # ends what the alarm cannot interrupt, a single long operation inside the interpreter.
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(usage.ru_utime + usage.ru_stime) + 3
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            verdict = _passes(job["source"], job["tests"])
        except OutOfTime:
            # The alarm struck between the end of the tests and its switching off.
            verdict = False
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Programs behind limits: what they cannot do, and that only reaching the end is passing."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eckart.evaluation.code import Outcome, protection, require_permission, run_programs, running
from eckart.types import EckartError, UsageError

LINUX = sys.platform == "linux"
SECCOMP = "seccomp" in protection()
NAMESPACE = "namespace" in protection()

only_linux = pytest.mark.skipif(not LINUX, reason="only Linux has this limit")
only_seccomp = pytest.mark.skipif(not SECCOMP, reason="no seccomp here")


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Every folder that was made for a program is gone afterwards."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert not list(place.iterdir())


def until(what: Callable[[], object]) -> None:
    for _ in range(6000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within a minute")


def why(program: str, **limits: Any) -> str:
    (outcome,) = run_programs([program], **limits)
    assert outcome.passed == (outcome.why == "passed")
    return outcome.why


EVERY_DESCRIPTOR = "import os\nfor fd in range(3, 50):\n try: os.{}\n except OSError: pass\n"
ENDINGS = {
    "assert 1 + 1 == 2": "passed",
    "": "passed",
    "assert 1 + 1 == 3": "wrong",
    "foo": "error: NameError: name 'foo' is not defined",
    "def f(:": "error: SyntaxError: invalid syntax (<program>, line 1)",
    "x = '\ud800'": "error: UnicodeEncodeError: …",
    "def f(): f()\nf()": "error: RecursionError: …",
    "(" * 100000: "error: SyntaxError: …",
    "raise ValueError('a\\nb' * 1000)": "error: ValueError: a ba ba b…",
    "class E(Exception):\n def __str__(self): raise self\nraise E": "error: E",
    "import sys; sys.exit(0)": "error: SystemExit: 0",
    "import os; os._exit(0)": "error: left before its end, with status 0",
    "raise KeyboardInterrupt": "error: KeyboardInterrupt",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "killed by SIGKILL",
    "import os; os.abort()": "killed by SIGABRT",
    "input()": "error: EOFError: …",
    "import sys\nfor _ in range(3000): print('x' * 9999); print('x', file=sys.stderr)": "passed",
    "if __name__ == '__main__': input()": "passed",
    EVERY_DESCRIPTOR.format(r"write(fd, b'passed\n')")
    + "1 / 0": "error: wrote to a pipe that is not its own",
    EVERY_DESCRIPTOR.format(r"write(fd, b'passed\n')")
    + "os._exit(0)": "error: wrote to a pipe that is not its own",
    EVERY_DESCRIPTOR.format("close(fd)") + "os._exit(3)": "error: left before its end, with status 3",
}
ENDLESS = [
    "while True: pass",
    "while True:\n try: 1 / 0\n except BaseException: pass",
    "import time; time.sleep(99)",
    "import signal\nfor s in 2, 14, 15, 24: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
]


@pytest.fixture(scope="module")
def endings() -> dict[str, Outcome]:
    """All of them at once, since starting costs more than running."""
    return dict(zip(ENDINGS, run_programs(list(ENDINGS), seconds=30.0), strict=True))


@pytest.mark.parametrize("program", ENDINGS)
def test_only_reaching_the_end_is_passing(program: str, endings: dict[str, Outcome]) -> None:
    said, expected = endings[program], ENDINGS[program]
    assert said.passed == (expected == "passed")
    assert said.why.startswith(expected[:-1]) if expected.endswith("…") else said.why == expected
    assert len(said.why) <= 200


def test_what_does_not_end_is_ended() -> None:
    assert run_programs(ENDLESS, seconds=0.5) == [Outcome(False, "out of time")] * len(ENDLESS)


@only_linux
def test_memory_is_limited() -> None:
    bombs = ["x = bytearray(10**12)", "x = []\nwhile True: x.append([0] * 9)", "x = 'a'\nwhile True: x += x"]
    *outcomes, modest = run_programs([*bombs, "x = bytearray(2**26)"], memory_bytes=2**27)
    assert outcomes == [Outcome(False, "out of memory")] * 3
    assert modest.passed


def test_the_folder_is_empty_and_its_own() -> None:
    program = "import os, tempfile\nassert os.listdir() == []\nopen('stray', 'w').write('x')\n"
    program += "assert tempfile.gettempdir() == os.getcwd()\nos.mkdir('a')\nos.chmod('.', 0)\n"
    assert run_programs([program] * 3, workers=1) == [Outcome(True, "passed")] * 3


def test_a_file_cannot_be_large() -> None:
    assert why("open('big', 'wb').write(bytes(2**26))").startswith("error: OSError: [Errno 27]")


def test_nothing_of_the_environment_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = (
        "import os\nallowed = {'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}\n"
    )
    assert why(program + "assert set(os.environ) <= allowed, os.environ") == "passed"


@pytest.mark.parametrize("walls", [("namespace",), ("seccomp",), (), running._WALLS], ids=str)
def test_no_network(walls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if (walls == ("namespace",) and not NAMESPACE) or (walls == ("seccomp",) and not SECCOMP):
        pytest.skip(f"no {walls[0]} here: {protection()}")
    monkeypatch.setattr(running, "_WALLS", walls)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        said = why(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)")
        with pytest.raises(TimeoutError):
            server.accept()
    expected = (
        "error: OSError: [Errno 101]" if walls == ("namespace",) else "error: PermissionError: [Errno 1]"
    )
    assert said.startswith(expected)
    # What needs no network works: an event loop talks to itself.
    if walls != ():
        assert why("import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1") == "passed"


@only_seccomp
def test_no_process_is_started_or_signalled() -> None:
    programs = [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import os; os.kill(0, 9)",
    ]
    thread = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()"
    *outcomes, threaded = run_programs([*programs, thread])
    for outcome in outcomes:
        assert outcome.why.startswith("error: PermissionError: ")
    assert threaded.passed


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root has no such limit")
def test_few_processes_without_seccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_WALLS", ("namespace",))
    program = "import os, time\nfor _ in range(100):\n if os.fork() == 0: time.sleep(60)"
    assert why(program).startswith("error: BlockingIOError: ")


@only_linux
@pytest.mark.parametrize("last", ["time.sleep(60)", "pass", "os._exit(0)"])
def test_what_a_program_started_ends_with_it(
    last: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "_WALLS", ())
    program = f"""
import os, signal, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        time.sleep(60)
    open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child}}")
    os.write(write, b"x")
    time.sleep(60)
os.read(read, 1)
{last}
"""
    expected = {"time.sleep(60)": "out of time", "pass": "passed"}
    assert why(program, seconds=2.0).startswith(expected.get(last, "error: left before its end"))
    for pid in (tmp_path / "pids").read_text().split():
        assert not Path("/proc", pid).exists()


@only_linux
def test_a_program_that_kills_its_keeper_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_WALLS", ())
    programs = ["", "import os, time; os.kill(os.getppid(), 9); time.sleep(60)", ""]
    outcomes = run_programs(programs, workers=1)
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    assert outcomes[1].why.startswith("killed")


def test_nothing_goes_on_when_nobody_waits_for_it(tmp_path: Path) -> None:
    place, pid = tmp_path / "place" / "run", tmp_path / "pid"
    place.mkdir()
    source = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    keeper = running._Keeper(str(place))
    keeper.ask({"source": source, "seconds": 600, "memory": 2**30})
    until(lambda: pid.exists() and pid.read_text() != "")
    assert list(place.iterdir())
    # As it is closed for a process that was killed.
    assert keeper._process.stdin is not None
    keeper._process.stdin.close()
    until(lambda: not place.exists())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    keeper.close()


@pytest.mark.parametrize("workers", [1, 3, None])
def test_outcomes_come_in_the_order_of_the_programs(workers: int | None) -> None:
    told = []

    def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        told.append((description, total))
        return items

    programs = [f"import time; time.sleep({0.01 * (n % 3)}); assert False, {n}; {n}" for n in range(6)]
    programs[4] = "import time; time.sleep(0.3)"
    outcomes = run_programs(programs, workers=workers, track=track)
    assert [outcome.passed for outcome in outcomes] == [n == 4 for n in range(6)]
    assert told == [("running code", 6)]


def test_programs_do_not_see_each_other_and_run_alike() -> None:
    program = "import builtins, random\nassert not hasattr(builtins, 'seen')\nbuiltins.seen = 1\n"
    program += "raise ValueError(random.random(), hash('a'), list({'a', 'b', 'c', 'd'}))"
    first, *others = run_programs([program] * 4, workers=2)
    assert first.why.startswith("error: ValueError: (0.8444")
    assert others == [first] * 3


def test_no_programs_and_no_limits() -> None:
    assert run_programs([]) == []
    for wrong in ({"seconds": 0}, {"memory_bytes": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="more than nothing"):
            run_programs([""], **wrong)


def test_a_keeper_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_WALLS", ("castle",))
    with pytest.raises(EckartError, match="did not start: KeyError: 'castle'"):
        run_programs([""])


@only_linux
def test_limits_that_cannot_be_held_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EckartError, match="could not be run behind its limits: broken"):
        run_programs([""], memory_bytes=2**70)


def test_permission_says_what_is_kept_and_what_is_not() -> None:
    require_permission(True)
    with pytest.raises(UsageError) as refused:
        require_permission(False)
    for word in ("--allow-code-execution", "on this machine", "can read your files", "network", "malice"):
        assert word in str(refused.value)


def test_protection_says_what_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SECCOMP or NAMESPACE or "by Python alone" in protection()
    assert "files: as the user" in protection()
    assert "by Python alone" in running._in_words(["audit"], False)
    assert "memory: not limited" in running._in_words(["audit"], False)
    assert "network: open" not in protection()

"""Programs behind limits: what they cannot do, and that only reaching the end is passing."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from eckart.evaluation.code import Outcome, protection, require_permission, run_programs, running
from eckart.types import EckartError, UsageError

LINUX = sys.platform == "linux"
SECCOMP = "seccomp" in protection()

only_linux = pytest.mark.skipif(not LINUX, reason="only Linux has this limit")
only_seccomp = pytest.mark.skipif(not SECCOMP, reason="no seccomp here")


def standing(*walls: str) -> list[str]:
    """Those of the walls that stand on this machine, where these are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_WALLS", walls)
        with closing(running._Keeper()) as keeper:
            return keeper.walls


BACKENDS = [
    pytest.param(walls, marks=pytest.mark.skipif(not set(walls) <= set(standing(*walls)), reason="not here"))
    for walls in (
        ("bubblewrap", "landlock", "seccomp"),
        ("namespaces", "landlock", "seccomp"),
        ("landlock", "seccomp"),
    )
]


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


@pytest.mark.parametrize(
    "walls", [("namespaces",), ("bubblewrap",), ("seccomp",), ("landlock",), (), running._WALLS], ids=str
)
def test_no_network(walls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if len(walls) == 1 and walls[0] not in standing(*walls):
        pytest.skip(f"no {walls[0]} here")
    monkeypatch.setattr(running, "_WALLS", walls)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        said = why(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)")
        with pytest.raises(TimeoutError):
            server.accept()
    alone = {("namespaces",): "OSError: [Errno 101]", ("bubblewrap",): "ConnectionRefusedError: [Errno 111]"}
    assert said.startswith(f"error: {alone.get(walls, 'PermissionError: [Errno 1')}")
    # What needs no network works: an event loop talks to itself.
    if "audit" not in standing(*walls):
        assert why("import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1") == "passed"


ATTACKS = {
    "signal-by-descriptor": """
import os, fcntl, time
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETOWN, {pid}); fcntl.fcntl(r, 10, 12)
fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
os.write(w, b"x"); time.sleep(.1)
""",
    "limits": "import resource\nresource.prlimit({pid}, resource.RLIMIT_CORE, (0, 0))",
    "read": "raise ValueError(open({secret!r}).read())",
    "write": "open({secret!r}, 'w').write('x')",
    "mode": "import os\nos.chmod({secret!r}, 0)",
    "memory": "import os\nos.write(os.open('/proc/{pid}/mem', os.O_RDWR), b'')",
    "shared-memory": "import os\nopen('/dev/shm/eckart-test-{pid}', 'w').write('x')",
    "anonymous-file": "import os\nos.memfd_create('x')",
    "outlive": "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
    "program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])",
    "namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "many-files": "for k in range(40): open(str(k), 'wb').write(bytes(15 << 20))",
}


@pytest.mark.parametrize("walls", BACKENDS, ids=str)
def test_nothing_gets_out(walls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`benchmarks/escapes.py` has more of them, with what only shows from outside."""
    monkeypatch.setattr(running, "_WALLS", walls)
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    mode, limits = secret.stat().st_mode, resource.getrlimit(resource.RLIMIT_CORE)
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        programs = [source.format(pid=os.getpid(), secret=str(secret)) for source in ATTACKS.values()]
        outcomes = dict(zip(ATTACKS, run_programs(programs, seconds=20.0), strict=True))
    finally:
        signal.signal(signal.SIGUSR2, before)
    passed = {name for name, outcome in outcomes.items() if outcome.passed}
    # Only a file system of its own has a size.
    assert passed == (set() if len(walls) == 3 else {"many-files"})
    assert not any("SECRET" in outcome.why for outcome in outcomes.values())
    assert (secret.read_text(), secret.stat().st_mode) == ("SECRET", mode)
    assert resource.getrlimit(resource.RLIMIT_CORE) == limits
    assert not heard
    assert not Path(f"/dev/shm/eckart-test-{os.getpid()}").exists()


@pytest.mark.parametrize("walls", BACKENDS, ids=str)
def test_folders_without_end_are_gone_afterwards(
    walls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_WALLS", walls)
    deep = "import os\nfor k in range(3000):\n os.mkdir('d'); os.chdir('d')"
    empty = "import os\nassert os.listdir() == []"
    assert [outcome.passed for outcome in run_programs([deep, empty], workers=1)] == [True, True]


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
    monkeypatch.setattr(running, "_WALLS", ("namespaces",))
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


def below(pid: int) -> list[int]:
    """The processes that it started, and that they started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [further for child in found for further in below(child)]


@only_linux
@pytest.mark.parametrize("walls", [(), *BACKENDS], ids=str)
def test_nothing_goes_on_when_nobody_waits_for_it(
    walls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "_WALLS", walls)
    keeper = running._Keeper()
    keeper.ask({"source": "import time; time.sleep(600)", "seconds": 600, "memory": 2**30})
    between = {"bubblewrap": 2, "namespaces": 1}.get(next(iter(walls), ""), 0)
    until(lambda: len(below(keeper._process.pid)) > between)
    started = below(keeper._process.pid)
    # As it is closed for a process that was killed.
    assert keeper._process.stdin is not None
    keeper._process.stdin.close()
    keeper._process.wait(60)
    until(lambda: not any(Path("/proc", str(pid)).exists() for pid in started))
    assert not list((tmp_path / "place").iterdir())
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
    for word in ("--allow-code-execution", "on this machine", "docs/sandbox.md", protection()):
        assert word in str(refused.value)


def test_protection_says_what_stands() -> None:
    said = running._in_words
    assert "closed" in said(["bubblewrap", "seccomp"], True)
    assert "reading the files" in said(["namespaces"], True)
    assert "writing" not in said(["namespaces"], True)
    assert "writing where you can write" in said(["seccomp"], True)
    assert "every user" in said(["nobody", "seccomp"], True)
    assert "signals" not in said(["nobody"], True)
    assert "Python alone" in said(["audit"], False)
    assert "memory without limit" in said(["audit"], False)

"""A stand-in for the HTTP interface of the hub, on this machine: what a push needs of it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 34


class Hub:
    """What arrived.

    Attributes:
        repositories: name to the files of its last commit.
        objects: large files by their SHA-256.
        uploads: digests that were sent, in order.
        asked: paths that were asked for.
        stalls: how many large files arrive before the next never ends; `None` for all.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.asked: list[str] = []
        self.stalls: int | None = None
        self.stalled = threading.Event()
        self._begun = 0
        self._turn = threading.Condition()
        self.address = ""

    def post(self, path: str, body: bytes) -> Any:
        """An answer in JSON, or a status."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.private.setdefault(name, bool(asked.get("private")))
            self.repositories.setdefault(name, {})
            return {"url": f"{self.address}/{name}", "id": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for each in json.loads(body)["files"]
                ]
            }
        if path.endswith("/info/lfs/objects/batch"):
            return {
                "transfer": "basic",
                "objects": [self._place(each) for each in json.loads(body)["objects"]],
            }
        if "/commit/" in path:
            name = path.split("/api/models/")[1].split("/commit/", maxsplit=1)[0]
            return self._commit(name, [json.loads(line) for line in body.splitlines() if line])
        return 404

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.address}/objects/{wanted['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> Any:
        files = self.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        return {
            "commitUrl": f"{self.address}/{name}/commit/{digest}",
            "commitOid": digest,
            "pullRequestUrl": None,
        }

    def put(self, path: str, body: bytes) -> None:
        digest = path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == digest
        with self._turn:
            self.objects[digest] = body
            self.uploads.append(digest)
            self._turn.notify_all()

    def wait(self) -> None:
        """Never answer, where that was asked for: the one who sends will have to be killed.

        Files come several at once, so it is those that have begun that count, not those that have arrived.
        """
        with self._turn:
            if self.stalls is None:
                return
            self._begun += 1
            if self._begun <= self.stalls:
                return
            self._turn.wait_for(lambda: len(self.uploads) >= self.stalls)
        self.stalled.set()
        time.sleep(600)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub of its own, with nothing in it."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self, found: Any) -> None:
            status = found if isinstance(found, int) else 200
            content = b"" if isinstance(found, int) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def known(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            if not self.known():
                self.answer(401)
            elif self.path == "/api/whoami-v2":
                self.answer({"name": "me", "type": "user", "orgs": [{"name": "us"}], "auth": {}})
            else:
                self.answer(404)

        def do_POST(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(path)
            body = self.body()
            self.answer(hub.post(path, body) if self.known() or path == "/api/validate-yaml" else 401)

        def do_PUT(self) -> None:
            hub.wait()
            hub.put(self.path, self.body())
            self.answer({})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

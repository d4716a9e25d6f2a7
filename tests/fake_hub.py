"""A Hugging Face hub on this machine, as far as huggingface_hub asks it to take a model."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(ThreadingHTTPServer):
    """The server; `repositories` has what was sent: name to file to content.

    Args:
        refused: part of an address that it answers with an error.
    """

    def __init__(self, refused: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.refused = refused
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def checkout(self, name: str, folder: Path) -> Path:
        """Write what was sent to a folder."""
        for file, content in self.repositories[name].items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        return folder


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, body: bytes | None) -> None:
        path, hub = self.path.partition("?")[0], self.server
        found: Any = {}
        status = 403 if hub.refused and hub.refused in path else 200
        if self.headers.get("Authorization") != "Bearer hf_right":
            status = 401
        elif path.endswith("/whoami-v2"):
            found = {"type": "user", "name": "me", "orgs": [{"name": "ours"}]}
        elif path.endswith("/repos/create") and body and status == 200:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.repositories.setdefault(name, {})
            hub.private += [name] * (bool(asked.get("private")) or asked.get("visibility") == "private")
            found = {"url": f"{hub.address}/{name}"}
        elif "/preupload/" in path and body:
            files = json.loads(body)["files"]
            found = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in path and body and status == 200:
            name = "/".join(path.split("/")[3:5])
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            found = {"commitUrl": f"{hub.address}/{name}/commit/0", "commitOid": "0", "hookOutput": ""}
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def fake_hub(refused: str = "") -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub(refused) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()

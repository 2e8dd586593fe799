"""
A server on this machine that answers as the Hugging Face hub does, as far as uploading and downloading models goes.

Written by what ``huggingface_hub`` 2.4 asks for: ``create_repo``, ``validate-yaml``, ``preupload``, Git LFS's batch and
upload, ``commit`` (lines of JSON, which add and delete files), model information, and the files themselves.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stand_in"


class StandIn(ThreadingHTTPServer):
    """The repositories: files by name, and which of them came by LFS."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.by_lfs: set[str] = set()
        self.claimed_sizes: dict[str, int] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str) -> str:
        content = sorted((name, sha1(data).hexdigest()) for name, data in self.files[repository].items())
        return sha1(repr(content).encode()).hexdigest()


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Run the server in a thread."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            if given["organization"] == "somebody-else":
                return self._json({"error": "You don't have the rights to create a model there"}, 403)
            self.server.files.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.server.private[name] = given.get("visibility") == "private" or bool(given.get("private"))
            return self._json({"url": f"{self.server.url}/{name}"})
        if match := re.fullmatch(r"/api/models/(.+/.+)/preupload/main", path):
            return self._json({"files": [_mode(each) for each in json.loads(body)["files"]]})
        if match := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            return self._json({"objects": [self._action(each) for each in json.loads(body)["objects"]]})
        if match := re.fullmatch(r"/api/models/(.+/.+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
            oid = self.server.commit(match[1])
            return self._json({"commitUrl": f"{self.server.url}/{match[1]}/commit/{oid}", "commitOid": oid})
        return self._json({"error": "Not found"}, 404)

    def _action(self, each: dict[str, Any]) -> dict[str, Any]:
        return {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[repository][value["path"]] = self.server.objects[value["oid"]]
                self.server.by_lfs.add(value["path"])
            elif line["key"] == "deletedFile":
                del self.server.files[repository][value["path"]]

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if match[1] not in self.server.files:
                return self._json({"error": "Repository not found"}, 404, "RepoNotFound")
            commit = self.server.commit(match[1])
            if match[2] not in (None, "main", commit):
                return self._json({"error": "Invalid rev id"}, 404, "RevisionNotFound")
            sizes = {name: len(data) for name, data in self.server.files[match[1]].items()} | self.server.claimed_sizes
            siblings = [{"rfilename": name, "size": size, "blobId": "0" * 40} for name, size in sizes.items()]
            return self._json({"id": match[1], "sha": commit, "siblings": siblings})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self.server.files.get(match[1], {})
            if match[3] not in files:
                return self._json({"error": "Entry not found"}, 404, "EntryNotFound")
            return self._send(files[match[3]], "application/octet-stream", self.server.commit(match[1]))
        return self._json({"error": "Not found"}, 404)

    def _json(self, content: Any, status: int = 200, code: str | None = None) -> None:
        self._send(json.dumps(content).encode(), "application/json", None, status, code)

    def _send(
        self, content: bytes, kind: str, commit: str | None = None, status: int = 200, code: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if code is not None:
            self.send_header("X-Error-Code", code)
        if commit is not None:
            self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

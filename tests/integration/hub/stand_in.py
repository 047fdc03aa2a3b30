"""A server that speaks what the Hub's client asks of the Hub, for one process on 127.0.0.1.

Repositories with branches and commits, git and LFS objects by their hashes, large files behind a
redirect, ranges. What it does wrong and what it counts is set by the tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 100_000  # bytes; the Hub keeps larger and binary files apart from git
NEVER = 1 << 60


@dataclass(frozen=True)
class File:
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0%b" % (len(self.data), self.data)).hexdigest()

    @property
    def large(self) -> bool:
        return len(self.data) >= LARGE

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File]) -> str:
        text = repr((branch, len(self.commits), sorted((n, f.git) for n, f in files.items())))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        oid = self.branches.get(revision, revision)
        return oid if oid in self.commits else None


class Hub(ThreadingHTTPServer):
    """The server. `stall_after`: bytes of a large file after which a download hangs, once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.elsewhere = f"http://localhost:{self.server_address[1]}"  # another host to a client
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.stall_after = NEVER
        self.stall_commit = False
        self.stalled = threading.Event()
        self.spoil = ""  # sha256 of an object that comes with a flipped bit
        self.change = ""  # a file that a commit spoils
        self.tokens: set[str] = set()  # that came with any request
        self.told_elsewhere: list[str] = []  # tokens that large files were asked for with
        self.mistakes: list[str] = []
        self.status = 0  # that every request of the API gets

    def handle_error(self, *_: Any) -> None:
        """Clients that are killed are expected, mistakes of ours are not."""
        if not isinstance(error := sys.exception(), ConnectionError):
            self.mistakes.append(repr(error))

    def count(self, method: str, pattern: str) -> int:
        return sum(
            m == method and re.search(pattern, path) is not None for m, path, _ in self.asked
        )


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the base class looks for these names

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        self.server.tokens.update(self.headers.get_all("Authorization", []))
        self.server.asked.append((self.command, path, self.headers.get("Range", "")))
        if self.server.status and not path.startswith("/-/"):
            self._json({"error": "as told"}, self.server.status)
            return
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, path):
                answer(self, **found.groupdict())
                return
        self._json({"error": f"no route {path}"}, 404)

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, kind: str) -> None:
        self._json({"error": "not found"}, 404, X_Error_Code=kind)

    # Writing -------------------------------------------------------------------------------------

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            self._json({"error": "there", "url": f"{self.server.url}/{name}"}, 409)
            return
        made = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
        made.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n")})
        self.server.repositories[name] = made
        self._json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def branch(self, repo: str, name: str) -> None:
        found = self.server.repositories[repo]
        if name in found.branches:
            self._json({"error": "there"}, 409)
            return
        found.branches[name] = found.branches["main"]
        self._json({})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        found = self.server.repositories[repo]
        there = found.commits[found.resolve(revision) or ""]
        files = []
        for asked in json.loads(self.body)["files"]:
            old = there.get(asked["path"])
            mode = "lfs" if asked["size"] >= LARGE else "regular"
            row = {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}
            files.append(row | ({"oid": old.etag} if old else {}))
        self._json({"files": files})

    def batch(self, repo: str) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.objects:
                href = f"{self.server.url}/-/lfs/{asked['oid']}"
                answer["actions"] = {"upload": {"href": href}, "verify": {"href": href}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                self._json({"error": "another checksum"}, 400)
                return
            self.server.objects[oid] = self.body
        self._json({}, 200 if oid in self.server.objects else 404)

    def commit(self, repo: str, revision: str) -> None:
        if self.server.stall_commit:
            self.server.stall_commit = False
            self.server.stalled.set()
            time.sleep(60)
        found = self.server.repositories[repo]
        files = dict(found.commits[found.branches[revision]])
        for line in self.body.splitlines():
            row = json.loads(line)
            key, value = row["key"], row["value"]
            if key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[value["path"]] = File(self.server.objects[value["oid"]])
            elif key == "deletedFile":
                del files[value["path"]]
        if self.server.change in files:
            files[self.server.change] = File(files[self.server.change].data + b" ")
        oid = found.commit(revision, files)
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid})

    # Reading -------------------------------------------------------------------------------------

    def info(self, repo: str, revision: str | None = None) -> None:
        found = self.server.repositories.get(repo)
        oid = found.resolve(revision or "main") if found else None
        if found is None or oid is None:
            self._missing("RepoNotFound" if found is None else "RevisionNotFound")
            return
        siblings = [{"rfilename": name} for name in found.commits[oid]]
        head = {"id": repo, "sha": oid, "private": found.private, "tags": []}
        self._json(head | {"siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        found = self.server.repositories[repo]
        files = found.commits[found.resolve(revision) or ""]
        if self.command == "POST":
            wanted = parse_qs(self.body.decode())["paths"]
            files = {name: file for name, file in files.items() if name in wanted}
        rows = []
        for name, file in files.items():
            row: dict[str, Any] = {"type": "file", "path": name, "size": len(file.data)}
            row["oid"] = file.git
            if file.large:
                row["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 134}
            rows.append(row)
        self._json(rows)

    def resolve(self, repo: str, revision: str, name: str) -> None:
        found = self.server.repositories.get(repo)
        oid = found.resolve(revision) if found else None
        if found is None or oid is None:
            self._missing("RepoNotFound" if found is None else "RevisionNotFound")
            return
        file = found.commits[oid].get(name)
        if file is None:
            self._json({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return
        if not file.large:
            self._send(file.data, {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"'})
            return
        self.send_response(302)
        self.send_header("Location", f"{self.server.elsewhere}/-/cdn/{file.sha256}")
        self.send_header("X-Repo-Commit", oid)
        self.send_header("X-Linked-Size", str(len(file.data)))
        self.send_header("X-Linked-Etag", f'"{file.sha256}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def cdn(self, oid: str) -> None:
        self.server.told_elsewhere += self.headers.get_all("Authorization", [])
        data = self.server.objects[oid]
        if self.server.spoil == oid:
            data = data[:-1] + bytes([data[-1] ^ 4])
        self._send(data, {"ETag": f'"{oid}"'})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        size, start = len(data), 0
        if wanted:
            start = int(wanted[1])
            data = data[start : int(wanted[2]) + 1 if wanted[2] else size]
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{size}"
        self.send_response(206 if wanted else 200)
        headers |= {"Accept-Ranges": "bytes", "Content-Length": str(len(data))}
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if len(data) > self.server.stall_after:
            self.wfile.write(data[: self.server.stall_after])
            self.server.stall_after = NEVER
            self.server.stalled.set()
            time.sleep(60)
        self.wfile.write(data)


REPO, REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = (
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/models/{REPO}/preupload/{REVISION}", Handler.preupload),
    (rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/-/lfs/(?P<oid>\w+)", Handler.put_object),
    (r"/-/cdn/(?P<oid>\w+)", Handler.cdn),
    (rf"/api/models/{REPO}/commit/{REVISION}", Handler.commit),
    (rf"/api/models/{REPO}/branch/(?P<name>[^/]+)", Handler.branch),
    (rf"/api/models/{REPO}/revision/{REVISION}", Handler.info),
    (rf"/api/models/{REPO}", Handler.info),
    (rf"/api/models/{REPO}/(?:tree|paths-info)/{REVISION}", Handler.tree),
    (rf"/{REPO}/resolve/{REVISION}/(?P<name>.+)", Handler.resolve),
)

"""A local Hub: the part of its HTTP API that uploads, downloads and transformers use.

It speaks what huggingface_hub sends without Xet (`HF_HUB_DISABLE_XET`): create a repository,
preupload, LFS batch and upload, commit, model info, tree, resolve. Large files are redirected on
download, as on the Hub. Files are checked and kept in memory.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, USER = "hf_of_the_tests", "tester"
LFS_SUFFIXES = (".safetensors", ".bin")
Answer = tuple[int, Any, dict[str, str]]


@dataclass(slots=True)
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass(slots=True)
class Repo:
    """A repository of one branch, `main`."""

    private: bool = False
    commits: list[Commit] = field(default_factory=list)

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        """Add a commit that changes these files."""
        oid = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        before = self.commits[-1].files if self.commits else {}
        self.commits.append(Commit(oid, message, before | files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch or hash."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)


class Hub(http.server.ThreadingHTTPServer):
    """The server; `repos` and `requests` are for tests to look at."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.storage = f"http://localhost:{self.server_address[1]}"
        """Where large files are; clients look at redirects to another host before they follow them."""
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failing = ""
        """Requests whose method and path match this pattern fail with 503."""

    def add(self, name: str, directory: Path, *, private: bool = False) -> Commit:
        """Store the files of a directory as a repository."""
        files = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }
        self.repos[name] = Repo(private=private)
        return self.repos[name].commit("first", files)

    def environment(self, home: Path, *, token: str = TOKEN) -> dict[str, str]:
        """The variables with which a process uses this Hub, and caches in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._dispatch()

    def do_HEAD(self) -> None:
        self._dispatch()

    def do_POST(self) -> None:
        self._dispatch()

    def do_PUT(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        self.body = self._read_body()
        path = urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        self.server.requests.append(f"{self.command} {path}")
        if self.server.failing and re.search(self.server.failing, f"{method} {path}"):
            self._send(503, {"error": "out of order"}, {})
            return
        for route_method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == route_method:
                self._send(*answer(self, *map(unquote, match.groups())))
                return
        self._send(404, {"error": f"no route for {method} {path}"}, {})

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: Any, headers: dict[str, str]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if status == 200 and span and self.command == "GET":
            first, last = int(span[1]), int(span[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find(self, name: str) -> Repo | None:
        """A repository that the caller may see."""
        repo = self.server.repos.get(name)
        return repo if repo and (self.is_known or not repo.private) else None


def _fault(status: int, code: str) -> Answer:
    return status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code}


def _needs_token(answer: Callable[..., Answer]) -> Callable[..., Answer]:
    def checked(call: _Handler, *names: str) -> Answer:
        if not call.is_known:
            return 401, {"error": "Invalid username or password."}, {}
        return answer(call, *names)

    return checked


def _needs_commit(answer: Callable[..., Answer]) -> Callable[..., Answer]:
    """Look up the repository and the revision that a path begins with."""

    def found(call: _Handler, name: str, revision: str = "main", *rest: str) -> Answer:
        repo = call.find(name)
        if repo is None:
            return _fault(404 if call.is_known else 401, "RepoNotFound")
        commit = repo.at(revision) if repo.commits else None
        return answer(call, name, commit, *rest) if commit else _fault(404, "RevisionNotFound")

    return found


@_needs_token
def _whoami(_: _Handler) -> Answer:
    return 200, {"type": "user", "name": USER, "orgs": []}, {}


@_needs_token
def _create(call: _Handler) -> Answer:
    request = call.json
    name = f"{request.get('organization') or USER}/{request['name']}"
    answer = {"url": f"{call.server.url}/{name}", "name": name}
    if not name.startswith(f"{USER}/"):
        return 403, {"error": f"You don't have the rights to create {name}"}, {}
    if name in call.server.repos:
        return 409, {**answer, "error": "You already created this model repo"}, {}
    is_private = request.get("visibility") == "private" or bool(request.get("private"))
    call.server.repos[name] = Repo(private=is_private)
    call.server.repos[name].commit("initial commit", {".gitattributes": b""})
    return 200, answer, {}


def _validate(call: _Handler) -> Answer:
    """The metadata of a model card must be YAML, as on the Hub."""
    content = call.json["content"]
    front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        metadata = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata"}]
    return 200, {"errors": [], "warnings": warnings}, {}


@_needs_token
@_needs_commit
def _preupload(call: _Handler, _: str, commit: Commit) -> Answer:
    files = []
    for entry in call.json["files"]:
        mode = "lfs" if entry["path"].endswith(LFS_SUFFIXES) else "regular"
        before = commit.files.get(entry["path"])
        oid = _oid(entry["path"], before) if before is not None else None
        files.append({"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return 200, {"files": files}, {}


@_needs_token
def _lfs_batch(call: _Handler, name: str) -> Answer:
    objects = []
    for entry in call.json["objects"]:
        known = {"oid": entry["oid"], "size": entry["size"]}
        href = f"{call.server.url}/lfs/{entry['oid']}"
        verify = {"href": f"{call.server.url}/{name}.git/info/lfs/objects/verify"}
        actions = {"actions": {"upload": {"href": href}, "verify": verify}}
        objects.append(known if entry["oid"] in call.server.blobs else known | actions)
    return 200, {"transfer": "basic", "objects": objects}, {}


def _lfs_put(call: _Handler, oid: str) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != oid:
        return 400, {"error": "the content has another hash"}, {}
    call.server.blobs[oid] = call.body
    return 200, {}, {}


def _lfs_get(call: _Handler, oid: str) -> Answer:
    return 200, call.server.blobs[oid], {"ETag": f'"{oid}"'}


def _lfs_verify(call: _Handler, _: str) -> Answer:
    request = call.json
    blob = call.server.blobs.get(request["oid"])
    return (200 if blob is not None and len(blob) == request["size"] else 404), {}, {}


@_needs_token
def _commit(call: _Handler, name: str, _revision: str) -> Answer:
    message, files = "", {}
    for line in call.body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "header":
            message = value["summary"]
        elif entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            files[value["path"]] = call.server.blobs[value["oid"]]
        else:
            return 400, {"error": f"unknown operation {entry['key']}"}, {}
    commit = call.server.repos[name].commit(message, files)
    url = f"{call.server.url}/{name}/commit/{commit.oid}"
    return 200, {"success": True, "commitOid": commit.oid, "commitUrl": url}, {}


@_needs_commit
def _info(call: _Handler, name: str, commit: Commit) -> Answer:
    content = {"id": name, "modelId": name, "sha": commit.oid, "tags": [], "downloads": 0}
    content["private"] = call.server.repos[name].private
    content["siblings"] = [{"rfilename": path} for path in commit.files]
    return 200, content, {}


@_needs_commit
def _tree(_call: _Handler, _: str, commit: Commit, folder: str = "") -> Answer:
    entries = []
    for path, content in commit.files.items():
        if folder and not path.startswith(f"{folder}/"):
            continue
        entry = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
        if path.endswith(LFS_SUFFIXES):
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        entries.append(entry)
    return (200, entries, {}) if entries else _fault(404, "EntryNotFound")


@_needs_commit
def _resolve(call: _Handler, _: str, commit: Commit, path: str) -> Answer:
    content = commit.files.get(path)
    revision = {"X-Repo-Commit": commit.oid}
    if content is None:
        status, answer, headers = _fault(404, "EntryNotFound")
        return status, answer, headers | revision
    oid = _oid(path, content)
    if path.endswith(LFS_SUFFIXES):
        call.server.blobs[oid] = content
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return 302, b"", {"Location": f"{call.server.storage}/lfs/{oid}", **revision, **linked}
    return 200, content, {"ETag": f'"{oid}"', **revision}


def _oid(path: str, content: bytes) -> str:
    is_lfs = path.endswith(LFS_SUFFIXES)
    return hashlib.sha256(content).hexdigest() if is_lfs else _git_oid(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_NAME, _REVISION = r"([^/]+/[^/]+)", r"([^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/api/whoami-v2", _whoami),
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate),
    ("POST", f"/api/models/{_NAME}/preupload/{_REVISION}", _preupload),
    ("POST", f"/api/models/{_NAME}/commit/{_REVISION}", _commit),
    ("POST", f"/{_NAME}\\.git/info/lfs/objects/batch", _lfs_batch),
    ("POST", f"/{_NAME}\\.git/info/lfs/objects/verify", _lfs_verify),
    ("PUT", "/lfs/([0-9a-f]{64})", _lfs_put),
    ("GET", "/lfs/([0-9a-f]{64})", _lfs_get),
    ("GET", f"/api/models/{_NAME}", _info),
    ("GET", f"/api/models/{_NAME}/revision/{_REVISION}", _info),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}", _tree),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}/(.+)", _tree),
    ("GET", f"/{_NAME}/resolve/{_REVISION}/(.+)", _resolve),
]


@contextlib.contextmanager
def serving_hub() -> Iterator[Hub]:
    """Run a Hub without repositories inside the context."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()

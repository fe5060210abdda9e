"""A little of the Hugging Face hub on 127.0.0.1: datasets and models to read, models to write, faults on demand."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from time import sleep  # by name: tests take the waiting out of time.sleep
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from runtime.hub import hub_filesystem
from runtime.hub_client import use_limited_client

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What happens to the next `times` requests whose path contains `match`."""

    match: str
    times: int = 1
    status: int | None = None  # answered instead
    code: str = ""  # the hub's own word for an error
    retry_after: int | str | None = None
    rate_limit: str = ""
    cut: int | None = None  # the connection ends after so many bytes of the body
    stall: float = 0.0  # seconds of silence first


class Hub:
    """Serves datasets and models {repo: {path: bytes}}; `requests` has (path, body bytes) of each answer.

    Models are written by whoever brings a token; those in `models` and all that is stored by its sha256 are in memory.
    """

    def __init__(self, repos: dict[str, dict[str, bytes]], models: dict[str, dict[str, bytes]] | None = None):
        self.repos, self.models, self.stored, self.faults, self.requests = repos, models or {}, {}, [], []
        self.private: dict[str, bool] = {}  # of repositories that were made
        self.newest = ""  # a newer commit of all datasets, of which nothing is served
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # a client that hangs up is no fault of the test
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, match: str, **what) -> None:
        """Arrange a fault; those that happened are gone from `faults`."""
        self.faults.append(Fault(match, **what))

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request, or do to it what a fault says."""
        path = unquote(urlsplit(request.path).path)
        sent = request.rfile.read(int(request.headers["Content-Length"] or 0))
        fault = next((fault for fault in self.faults if fault.match in path), None)
        if fault:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            sleep(fault.stall)
        if request.command in ("GET", "HEAD") and path != "/api/whoami-v2":
            status, body, headers = self.content(path, request.headers.get("Range"))
        else:
            status, body, headers = self.accept(path, sent, request.headers.get("Authorization"))
        if fault and fault.status:
            status, body, headers = fault.status, b"", {"X-Error-Code": fault.code}
            if fault.retry_after is not None:
                headers["Retry-After"] = str(fault.retry_after)
            if fault.rate_limit:
                headers["RateLimit"] = fault.rate_limit
        if not isinstance(body, bytes):
            self.stream(request, status, body, headers)
            return
        self.requests.append((path, len(body)))
        try:
            request.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                request.send_header(name, value)
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(body if not fault or fault.cut is None else body[: fault.cut])
        except OSError:
            request.close_connection = True  # the client gave up waiting
        request.close_connection |= bool(fault)

    def stream(
        self, request: http.server.BaseHTTPRequestHandler, status: int, body: Iterable[bytes], headers: dict
    ) -> None:
        """Answer with a body of unknown size, until the client closes the connection."""
        request.close_connection = True
        with contextlib.suppress(OSError):
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.end_headers()
            for chunk in body:
                request.wfile.write(chunk)

    def content(self, path: str, span: str | None) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of a path without any fault."""
        for repo, files in self.repos.items():
            info, resolve = f"/api/datasets/{repo}", f"/datasets/{repo}/resolve/{REVISION}/"
            if path in (info, f"{info}/revision/{REVISION}", f"{info}/revision/refs/convert/parquet"):
                sha = self.newest if path == info and self.newest else REVISION
                return 200, json.dumps({"id": repo, "sha": sha, "siblings": []}).encode(), {}
            if path.startswith(tree := f"{info}/tree/{REVISION}"):
                folder = path.removeprefix(tree).strip("/")
                rows = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0"}
                    for name, data in files.items()
                    if name.rpartition("/")[0] == folder
                ]
                rows += [
                    {"type": "directory", "path": name, "oid": "0"}
                    for name in sorted(
                        {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
                    )
                    if name.rpartition("/")[0] == folder
                ]
                return 200, json.dumps(rows).encode(), {"Content-Type": "application/json"}
            if (name := path.removeprefix(resolve)) in files and span is None:
                return 200, files[name], {"ETag": f'"{blob(files[name])}"', "X-Repo-Commit": REVISION}
            if name in files:
                first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
                body = files[name][first : last + 1]
                return (
                    206,
                    body,
                    {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(files[name])}"},
                )
        for repo, files in self.models.items():
            if path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
                rows = [
                    {"rfilename": name, "size": len(data), "blobId": blob(data), **lfs(name, data)}
                    for name, data in files.items()
                ]
                return 200, json.dumps({"id": repo, "sha": REVISION, "siblings": rows}).encode(), {}
            if (name := path.removeprefix(f"/{repo}/resolve/{REVISION}/")) in files:
                first = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
                size = len(files[name])
                return 206, files[name][first:], {"Content-Range": f"bytes {first}-{size - 1}/{size}"}
        is_known = any(path.startswith(f"/datasets/{repo}/resolve/{REVISION}/") for repo in self.repos)
        return 404, b"{}", {"X-Error-Code": "EntryNotFound" if is_known else "RepoNotFound"}

    def accept(self, path: str, sent: bytes, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of something that is written."""
        if path.startswith("/stored/"):  # signed addresses need no token
            self.stored[path.removeprefix("/stored/")] = sent
            return 200, b"", {}
        if path == "/api/validate-yaml":
            return 200, b'{"errors": [], "warnings": []}', {}
        if not token:
            return 401, b"{}", {}
        if path == "/api/whoami-v2":
            return 200, b'{"type": "user", "name": "someone"}', {}
        if path.startswith("/api/repos/"):
            return self.change_repository(path.removeprefix("/api/repos/"), json.loads(sent))
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(sent)["files"]]
            modes = [
                {"path": name, "shouldIgnore": False, "uploadMode": "lfs" if lfs(name, b"") else "regular"}
                for name in names
            ]
            return 200, json.dumps({"files": modes}).encode(), {}
        if path.endswith(".git/info/lfs/objects/batch"):
            rows = [
                {**thing, "actions": {"upload": {"href": f"{self.url}/stored/{thing['oid']}"}}}
                for thing in json.loads(sent)["objects"]
            ]
            return (
                200,
                json.dumps({"objects": rows}).encode(),
                {"Content-Type": "application/vnd.git-lfs+json"},
            )
        repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
        files = self.models[repo]
        for operation in map(json.loads, sent.splitlines()):
            what = operation["value"]
            if operation["key"] == "file":
                files[what["path"]] = base64.b64decode(what["content"])
            elif operation["key"] == "lfsFile":
                files[what["path"]] = self.stored[what["oid"]]
        made = {"success": True, "commitOid": REVISION, "commitUrl": f"{self.url}/{repo}/commit/{REVISION}"}
        return 200, json.dumps(made).encode(), {}

    def change_repository(self, change: str, asked: dict) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of making or removing a repository."""
        repo = f"{asked['organization']}/{asked['name']}"
        if change == "delete":
            self.models.pop(repo, None)
            return 200, b"", {}
        status = 409 if repo in self.models else 200
        if status == 200:
            self.models[repo] = {}
            self.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return status, json.dumps({"url": f"{self.url}/{repo}"}).encode(), {}


@contextlib.contextmanager
def connect(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point huggingface_hub, and our client, at a hub of this process."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    forget_clients()
    yield
    forget_clients()


def forget_clients() -> None:
    """Drop the clients that remember the address of a hub."""
    hub_filesystem.cache_clear()
    use_limited_client.cache_clear()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    huggingface_hub.close_session()


def blob(data: bytes) -> str:
    """The hash that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs(name: str, data: bytes) -> dict[str, dict]:
    """What the hub says besides of a large file, which is one by its name; nothing of another."""
    large = name.endswith((".safetensors", ".gguf", ".pt"))
    return (
        {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
        if large
        else {}
    )

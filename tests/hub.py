"""A little of the Hugging Face hub on 127.0.0.1, with faults on demand.

Datasets: info, file lists, ranges of files. Models: info with hashes, ranges of files, upload of a folder.
"""

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass
from time import sleep  # by name: tests take the waiting out of time.sleep
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".pt")  # kept apart by the hub, with a sha256


@dataclass
class Fault:
    """What happens to the next `times` requests whose path contains `match`."""

    match: str
    times: int = 1
    status: int | None = None  # answered instead
    code: str = ""  # the hub's own word for an error
    retry_after: int | None = None
    cut: int | None = None  # the connection ends after so many bytes of the body
    stall: float = 0.0  # seconds of silence first


class Hub:
    """Serves files {repo: {path: bytes}}; `requests` has (path, body bytes) of each answer."""

    def __init__(self, repos: dict[str, dict[str, bytes]]):
        self.repos, self.faults, self.requests = repos, [], []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, match: str, **what) -> None:
        """Arrange a fault; those that happened are gone from `faults`."""
        self.faults.append(Fault(match, **what))

    def answer(self, request: http.server.BaseHTTPRequestHandler, sent: bytes | None = None) -> None:
        """Answer one request, or do to it what a fault says."""
        path = unquote(urlsplit(request.path).path)
        fault = next((fault for fault in self.faults if fault.match in path), None)
        if fault:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            sleep(fault.stall)
        if sent is not None and not (fault and fault.status):
            status, body, headers = 200, self.receive(path, sent), {"Content-Type": "application/json"}
        else:
            status, body, headers = self.content(path, request.headers.get("Range"))
        if fault and fault.status:
            status, body, headers = fault.status, b"", {"X-Error-Code": fault.code}
            if fault.retry_after is not None:
                headers["Retry-After"] = str(fault.retry_after)
        self.requests.append((path, len(body)))
        try:
            request.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body if not fault or fault.cut is None else body[:fault.cut])
        except OSError:
            request.close_connection = True  # the client gave up waiting
        request.close_connection |= bool(fault)

    def content(self, path: str, span: str | None) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of a path without any fault."""
        for repo, files in self.repos.items():
            info, resolve = f"/api/datasets/{repo}", f"/datasets/{repo}/resolve/{REVISION}/"
            if path in (info, f"{info}/revision/{REVISION}"):
                return 200, json.dumps({"id": repo, "sha": REVISION, "siblings": []}).encode(), {}
            if path.startswith(tree := f"{info}/tree/{REVISION}"):
                folder = path.removeprefix(tree).strip("/")
                rows = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()
                        if name.rpartition("/")[0] == folder]
                rows += [{"type": "directory", "path": name, "oid": "0"} for name in
                         {name.rpartition("/")[0] for name in files} - {""} if name.rpartition("/")[0] == folder]
                return 200, json.dumps(rows).encode(), {"Content-Type": "application/json"}
            if path == f"/api/models/{repo}":
                return 200, json.dumps({"id": repo, "sha": REVISION, "siblings": [
                    {"rfilename": name, "size": len(data), "blobId": git_hash(data)} | (
                        {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
                        if name.endswith(LARGE) else {}) for name, data in files.items()]}).encode(), {}
            name = path.removeprefix(resolve).removeprefix(f"/{repo}/resolve/{REVISION}/")
            if name in files:
                first, last = span.removeprefix("bytes=").split("-")
                first, last = int(first), int(last or len(files[name]))
                body = files[name][first:last + 1]
                return 206, body, {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(files[name])}"}
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}

    def receive(self, path: str, sent: bytes) -> bytes:
        """Take a part of an upload: a new repository, the question how to send files, the files."""
        if path == "/api/repos/create":
            asked = json.loads(sent)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repos.setdefault(repo, {})
            return json.dumps({"url": f"{self.url}/{repo}"}).encode()
        if path.endswith("/preupload/main"):
            return json.dumps({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                         for file in json.loads(sent)["files"]]}).encode()
        if path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return json.dumps({"commitUrl": f"{self.url}/{repo}/commit/{REVISION}", "commitOid": REVISION}).encode()
        return b"{}"


def git_hash(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

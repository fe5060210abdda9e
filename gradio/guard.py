"""Guard of the page against other sites in the visitor's browser: foreign hosts and origins, and uploads."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
SHARED = ".gradio.live"  # addresses of Gradio's public links
READING = ("GET", "HEAD", "OPTIONS")
UPLOAD = "/upload"
FORBIDDEN = 403


class RequestGuard:
    """ASGI middleware that refuses requests which no visitor of the page makes.

    `hosts` are the names by which the page may be called (DNS rebinding uses others); empty: any.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = ()):
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 with the reason, or pass the request on."""
        reason = ""
        if scope["type"] == "http":
            reason = self.refusal(scope["method"], scope["path"], Headers(scope=scope))
        if reason:
            await PlainTextResponse(reason, FORBIDDEN)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def refusal(self, method: str, path: str, headers: Headers) -> str:
        """Return why a request is refused; empty for one that is passed on."""
        host = headers.get("host", "")
        if self.hosts and not self._is_ours(urlsplit(f"//{host}").hostname or ""):
            return f"{host} is not the address of this page: --server_name says what it is called"
        if UPLOAD in path:
            return "this page takes no files"

        origin = headers.get("origin")
        if method not in READING and origin is not None:
            own_names = (host, headers.get("x-forwarded-host"))  # the latter behind a proxy
            if urlsplit(origin).netloc not in own_names:
                return f"{origin} is another site than this page"
        return ""

    def _is_ours(self, name: str) -> bool:
        return any(name == host or (host == SHARED and name.endswith(SHARED)) for host in self.hosts)


def page_hosts(server_name: str, share: bool) -> tuple[str, ...]:
    """Return the names by which a page may be called that listens on an address; () for any."""
    if server_name in EVERYWHERE:
        return ()
    names = LOOPBACK if server_name in LOOPBACK else (server_name, *LOOPBACK)
    return (*names, SHARED) if share else names

"""Hostile clients of the page: other hosts, other origins, uploads; and what a visitor sends."""

import urllib.error
import urllib.request

import pytest
from guard import RequestGuard, page_hosts
from starlette.datastructures import Headers

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

HERE = "127.0.0.1:7860"


@pytest.mark.parametrize(
    "method, path, headers, refused",
    [
        ("GET", "/", {"host": HERE}, False),
        ("GET", "/", {"host": "localhost:7860"}, False),
        ("GET", "/", {"host": "[::1]:7860"}, False),
        ("POST", "/gradio_api/queue/join", {"host": HERE, "origin": f"http://{HERE}"}, False),
        ("POST", "/gradio_api/queue/join", {"host": HERE}, False),  # no browser
        ("GET", "/", {"host": "evil.example"}, True),
        ("GET", "/", {"host": "127.0.0.1.evil.example:7860"}, True),
        ("GET", "/", {}, True),
        ("POST", "/gradio_api/queue/join", {"host": HERE, "origin": "http://evil.example"}, True),
        ("POST", "/gradio_api/queue/join", {"host": HERE, "origin": "http://127.0.0.1:80"}, True),
        ("POST", "/gradio_api/queue/join", {"host": HERE, "origin": "null"}, True),
        ("DELETE", "/gradio_api/anything", {"host": HERE, "origin": "https://evil.example"}, True),
        ("POST", "/gradio_api/upload", {"host": HERE, "origin": f"http://{HERE}"}, True),
        ("POST", "/gradio_api/upload", {"host": HERE}, True),
    ],
)
def test_only_requests_of_the_page_are_passed_on(method, path, headers, refused):
    guard = RequestGuard(None, page_hosts("127.0.0.1", share=False))
    assert bool(guard.refusal(method, path, Headers(headers))) is refused


def test_the_names_of_a_page_follow_from_where_it_listens():
    def allowed(host, server_name, share=False):
        return not RequestGuard(None, page_hosts(server_name, share)).refusal(
            "GET", "/", Headers({"host": host})
        )

    assert allowed("box.lan:7860", "0.0.0.0") and allowed("box.lan", "box.lan")
    assert not allowed("other.lan", "box.lan") and not allowed("a.gradio.live", "127.0.0.1")
    assert allowed("a.gradio.live", "127.0.0.1", share=True) and not allowed(
        "gradio.live.evil", "127.0.0.1", True
    )


def status_of(address, path, body=None, **headers):
    """Return the status of a request, by its method's default."""
    request = urllib.request.Request(f"{address}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_served_page_refuses_them(address):
    assert status_of(address, "/") == 200
    assert status_of(address, "/", Host="evil.example") == 403
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nb\r\n--x--\r\n'
    assert status_of(address, "/gradio_api/upload", body, **form) == 403
    assert status_of(address, "/gradio_api/queue/join", b"{}", Origin="http://evil.example") == 403

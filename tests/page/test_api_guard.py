"""Hostile calls of the page's functions: private ones, wrong values, votes without a comparison, large bodies."""

import json
import urllib.error
import urllib.request

import pytest
from api_guard import MAX_BODY

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


def post(address, path, body, own=False):
    """Return status and text of a call; `own`: with the origin that a browser sends."""
    headers = {"Content-Type": "application/json"} | ({"Origin": address} if own else {})
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/gradio_api{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def functions(address):
    """The functions of the page, as its configuration lists them."""
    with urllib.request.urlopen(f"{address}/config", timeout=20) as response:
        return json.load(response)["dependencies"]


def number_of(functions, name):
    """Return the number of a function by the name of its method."""
    return next(each["id"] for each in functions if each["api_name"].startswith(name))


def test_two_functions_are_public(address, functions):
    public = [each["api_name"] for each in functions if each["api_visibility"] == "public"]
    assert sorted(public) == ["compare", "look"]
    with urllib.request.urlopen(f"{address}/gradio_api/info", timeout=20) as response:
        described = json.load(response)["named_endpoints"]
    assert sorted(described) == ["/compare", "/look"]
    names = [parameter["parameter_name"] for parameter in described["/look"]["parameters"]]
    assert names == ["prompt", "model", "settings"]


def test_private_functions_are_not_for_others(address, functions):
    number = number_of(functions, "add_message")
    call = {"data": ["x", None, None], "fn_index": number, "session_hash": "s"}
    for path in ("/queue/join", "/run/predict", "/api/predict"):
        assert post(address, path, call) == (
            404,
            "this function is a part of the page and cannot be called by others",
        )
    for path in ("/call/add_message", "/run/add_message", "/call/finish", "/call/vote"):
        assert post(address, path, {"data": []})[0] == 404
        assert post(address, path, {"data": []}, own=True)[0] == 404


def test_calls_that_fit_no_function_are_answered_in_one_line(address, functions, capfd):
    look = number_of(functions, "look")
    calls = [
        ("/call/none", {"data": []}, 404),
        ("/call/look", {"data": ["too", "few"]}, 400),
        ("/call/look", {"data": "text"}, 400),
        ("/call/look", b"no json", 400),
        ("/call/look", b"[1]", 400),
        ("/call/v2/look", {"prompt": "x"}, 400),
        ("/queue/join", {"data": [], "fn_index": 9999, "session_hash": "s"}, 404),
        ("/queue/join", {"data": [], "fn_index": "x", "session_hash": "s"}, 404),
        ("/queue/join", {"data": [], "fn_index": look, "session_hash": "s"}, 400),
        ("/call/look", b'{"data": ["' + b"x" * MAX_BODY + b'"]}', 413),
        ("/queue/join", b"[" * 100_000, 400),
    ]
    for path, body, status in calls:
        answered, text = post(address, path, body)
        assert answered == status, (path, text)
        assert text.count("\n") == 0 and "Traceback" not in text
    output = capfd.readouterr()
    assert "Traceback" not in output.err + output.out


def test_wrong_values_leave_no_traceback(address, functions, capfd):
    """Values of a wrong kind, a vote without a comparison, buttons without a conversation."""
    calls = {
        "look": ["hi", "no such model", {}, None],
        "compare": ["hi", "text", {}],
        "vote": [None],
        "choose": ["nonsense", "dpo", None, None],
        "act": ["dpo", "", None, None],
        "branch": [None],
        "open_page": [["x"], 5],
        "add_message": [{"a": 1}, None, None],
        "stream": [None, None, "dpo", {}, 5],
        "draw": [["../../etc"], None],
    }
    for name, values in calls.items():
        for each in functions:
            if each["api_name"].split("_1")[0] == name and len(each["inputs"]) == len(values):
                call = {"data": values, "fn_index": each["id"], "session_hash": f"s{each['id']}"}
                call["event_data"] = {"action": 5}
                status, text = post(address, "/run/predict", call, own=True)
                assert status in (200, 500), (name, text)
                assert "Traceback" not in text
    output = capfd.readouterr()
    assert "Traceback" not in output.err + output.out


def test_a_public_function_replies(address):
    call = {"data": ["hi", "sft", {"max_length": 3}]}
    status, text = post(address, "/call/look", call)
    assert status == 200
    event = json.loads(text)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/look/{event}", timeout=20) as response:
        assert "token-view" in response.read().decode()

"""The page as a program: it starts as the README says, lets in who may come, and reports a port in use in one line."""

import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from gradio_client import Client
from page_browser import free_port, page_text
from replies import StageModels
from stand_ins import ARGS, load_app
from toy import QUIET, ROOT

from runtime.errors import UserError

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


def test_the_page_starts_as_the_readme_says(tmp_path):
    """Start it from the root and from its own folder; it serves a page without any model as well."""
    starts = [(free_port(), ROOT, "gradio/app.py"), (free_port(), ROOT / "gradio", "app.py")]
    processes = []
    try:
        for port, folder, script in starts:
            command = [
                sys.executable,
                script,
                "--server_port",
                str(port),
                "--save_checkpoint_dir",
                str(tmp_path),
            ]
            process = subprocess.Popen(command, cwd=folder, env=QUIET, stdout=subprocess.PIPE, text=True)
            processes.append(process)

        for (port, _, _), process in zip(starts, processes, strict=True):
            assert process.stdout.readline().startswith(f"http://127.0.0.1:{port} ")
            assert "SmolLlama" in page_text(f"http://127.0.0.1:{port}")
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)


def test_a_port_in_use_is_reported_in_one_line(address, monkeypatch):
    monkeypatch.setattr("sys.argv", ["app.py", "--server_port", address.rpartition(":")[2]])
    with pytest.raises(UserError, match="cannot listen on 127.0.0.1:.* choose another --server_port"):
        load_app().main()


def test_a_password_keeps_others_out(runs, env, monkeypatch):
    app = load_app()
    args = ARGS.replace(save_checkpoint_dir=str(runs))
    blocks = app.build(StageModels(args, env), None)
    port = free_port()
    app.launch(blocks, "127.0.0.1", server_port=port, prevent_thread_lock=True, auth=("me", "secret"))
    try:
        address = f"http://127.0.0.1:{port}"
        call = urllib.request.Request(
            f"{address}/gradio_api/call/look",
            b'{"data": ["hi", "sft", {}]}',
            {"Content-Type": "application/json"},
        )
        for request in (f"{address}/gradio_api/info", call):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(request, timeout=20)
        with pytest.raises(ValueError, match="Could not load|[Ii]ncorrect|login"):
            Client(address, auth=("me", "wrong"), verbose=False)
        client = Client(address, auth=("me", "secret"), verbose=False)
        assert "token-view" in str(client.predict("hi", "sft", {"max_length": 2}, api_name="/look"))
    finally:
        blocks.close(verbose=False)


@pytest.mark.parametrize("auth", ["me", "me:", ":secret"])
def test_a_password_has_a_user(auth, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["app.py", "--auth", auth])
    with pytest.raises(SystemExit):
        load_app().parse_args()
    assert "--auth takes USER:PASSWORD" in capsys.readouterr().err


def test_a_seed_that_is_typed_stands_in_the_form(monkeypatch, tmp_path):
    base = ["app.py", "--save_checkpoint_dir", str(tmp_path)]
    for typed, seed in (([], None), (["--seed", "7"], 7)):
        monkeypatch.setattr("sys.argv", [*base, *typed])
        assert load_app().parse_args()[0].seed == seed

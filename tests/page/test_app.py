"""The page as a program: it starts as the README says, and a port in use is reported in one line."""

import subprocess
import sys

import pytest
from page_browser import free_port, page_text
from stand_ins import load_app
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

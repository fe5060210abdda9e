"""The doctor's report: complete, true where it can be checked, and possible without any package."""

import platform
import subprocess
import sys

import pytest
from toy import ROOT

from runtime import doctor
from runtime.requirements import remedy


def test_the_report_names_everything() -> None:
    notes = dict(doctor.report())
    assert list(notes) == [
        "SmolLlama",
        "system",
        "Python",
        "packages",
        "torch",
        "device",
        "matrix products",
        "compilers",
        "cores",
        "memory",
        "disk",
        "open files",
        "hub",
        "wandb",
    ]
    assert all(notes.values())
    assert platform.python_version() in notes["Python"]
    assert notes["packages"].startswith("all ")
    assert "GFLOP/s" in notes["matrix products"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1" if name == "tqdm" else real(name))
    real = __import__("importlib.metadata").metadata.version
    assert doctor.packages_note().startswith("tqdm 0.0.1 (wanted ")


def test_it_runs_where_nothing_is_installed() -> None:
    """-S leaves out site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "runtime.doctor"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"torch is not installed: {remedy()}" in done.stdout
    assert "missing (wanted" in done.stdout

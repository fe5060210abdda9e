"""The doctor's report: complete, true where it can be checked, and possible without any package."""

import platform
import subprocess
import sys

import pytest
from toy import ROOT

from runtime import doctor


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

    # Without site-packages, an active .venv is not recognized as active: then the advice is to activate it.
    remedies = ("bash install.sh", "source .venv/bin/activate")
    assert any(f"torch is not installed: {command}" in done.stdout for command in remedies)
    assert "missing (wanted" in done.stdout


def test_a_package_that_cannot_be_loaded_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise OSError("libcudart.so.13: cannot open\nshared object file")

    monkeypatch.setattr(doctor, "torch_note", broken)
    notes = dict(doctor.report())
    assert notes["torch"] == "fails (OSError: libcudart.so.13: cannot open shared object file)"
    assert notes["wandb"]


def test_mps_is_measured_where_training_would_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12_000_000_000)
    monkeypatch.setattr(doctor, "matmul_flops", lambda device, dtype: devices.append(device) or 1e12)
    assert doctor.device_note() == "mps, 12 GB"
    assert doctor.dtypes_note() == "float32 1,000 GFLOP/s, bfloat16 1,000 GFLOP/s"
    assert devices == ["mps", "mps"]

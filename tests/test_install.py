"""install.sh with stubs in place of Python and pip: which environment is used, and what is printed."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy import ROOT

STUB = ROOT / "tests" / "helpers" / "stub_python.sh"
TOOLS = ("bash", "env", "dirname", "cp", "mkdir", "touch", "rm", "sed")


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """Return a folder for PATH with basic tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name))
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout, with a blank in its path, that holds install.sh alone."""
    folder = tmp_path / "my llama"
    folder.mkdir()
    shutil.copy(ROOT / "install.sh", folder)
    return folder


def add_python(path: Path) -> None:
    """Put the stub at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUB, path)
    path.chmod(0o755)


def install(
    checkout: Path, bin_folder: Path, *words: str, cwd: Path | None = None, **variables: str
) -> tuple:
    """Run install.sh. Returns the finished process and the calls of Python, with paths relative to the checkout."""
    calls = checkout.parent / "calls"
    environment = {"PATH": str(bin_folder), "REAL_PYTHON": sys.executable, "CALLS": str(calls), **variables}
    command = ["bash", str(checkout / "install.sh"), *words]
    done = subprocess.run(
        command, cwd=cwd or checkout, env=environment, capture_output=True, text=True, timeout=60
    )
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done, [line.replace(f"{checkout}/", "") for line in lines]


def test_it_makes_venv_installs_and_prints_the_activation(checkout: Path, bin_folder: Path) -> None:
    add_python(bin_folder / "python3")
    done, calls = install(checkout, bin_folder)
    assert done.returncode == 0, done.stderr
    assert calls == [
        f"{bin_folder}/python3 -m venv --clear .venv",
        ".venv/bin/python -m pip --version",
        ".venv/bin/python -m pip install --quiet --disable-pip-version-check .",
    ]
    assert done.stdout.index("GB to download") < done.stdout.index("Installed.")
    assert "\n    source .venv/bin/activate\n" in done.stdout
    assert done.stdout.endswith("Next: bash install.sh quickstart\n")


def test_from_another_folder_the_printed_commands_work_there(
    checkout: Path, bin_folder: Path, tmp_path: Path
) -> None:
    add_python(bin_folder / "python3")
    done, _ = install(checkout, bin_folder, cwd=tmp_path)
    lines = done.stdout.splitlines()
    activation = next(line for line in lines if line.startswith("    source "))
    assert shlex.split(activation) == ["source", f"{checkout}/.venv/bin/activate"]
    assert shlex.split(lines[-1]) == ["Next:", "bash", f"{checkout}/install.sh", "quickstart"]


def test_an_active_environment_is_used(checkout: Path, bin_folder: Path, tmp_path: Path) -> None:
    add_python(bin_folder / "python3")
    add_python(tmp_path / "active" / "bin" / "python")
    (tmp_path / "active" / "bin" / "pip").touch()
    path = f"{tmp_path}/active/bin:{bin_folder}"
    for variables in (
        {"VIRTUAL_ENV": f"{tmp_path}/active"},
        {"CONDA_PREFIX": f"{tmp_path}/active", "CONDA_DEFAULT_ENV": "mine"},
    ):
        done, calls = install(checkout, bin_folder, PATH=path, **variables)
        assert done.returncode == 0, done.stderr
        assert calls[-1].startswith(f"{tmp_path}/active/bin/python -m pip install ")
        assert "source" not in done.stdout
        assert not (checkout / ".venv").exists()


def test_base_of_conda_stays_as_it_is(checkout: Path, bin_folder: Path) -> None:
    add_python(bin_folder / "python3")
    variables = {"CONDA_PREFIX": str(bin_folder.parent), "CONDA_DEFAULT_ENV": "base"}
    done, calls = install(checkout, bin_folder, **variables)
    assert "conda's base environment stays as it is: using .venv." in done.stdout
    assert calls[-1].startswith(".venv/bin/python -m pip install ")
    assert "source .venv/bin/activate" in done.stdout


@pytest.mark.parametrize("words", [(), ("quickstart",), ("test",), ("doctor",)])
@pytest.mark.parametrize("old", [True, False])
def test_without_a_new_python_one_line_says_so(
    checkout: Path, bin_folder: Path, words: tuple[str, ...], old: bool
) -> None:
    if old:
        (bin_folder / "python3").write_text(
            '#!/usr/bin/env bash\n[ "$1" = --version ] && echo Python 3.10.1\n'
        )
        (bin_folder / "python3").chmod(0o755)
    done, calls = install(checkout, bin_folder, *words)
    assert done.returncode == 2
    version = "Python 3.10.1" if old else "no python3"
    assert done.stderr == f"error: no Python 3.11, 3.12 or 3.13 on the PATH ({version}): install one\n"
    assert calls == [] and not (checkout / ".venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(checkout: Path, bin_folder: Path) -> None:
    (bin_folder / "python3").write_text("#!/usr/bin/env bash\nexit 1\n")
    (bin_folder / "python3").chmod(0o755)
    add_python(bin_folder / "python3.12")
    done, calls = install(checkout, bin_folder)
    assert done.returncode == 0, done.stderr
    assert calls[0] == f"{bin_folder}/python3.12 -m venv --clear .venv"


def test_a_broken_venv_is_made_again(checkout: Path, bin_folder: Path) -> None:
    """The Python that it was made with has been removed."""
    add_python(bin_folder / "python3")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/no/such/python")
    done, calls = install(checkout, bin_folder)
    assert done.returncode == 0, done.stderr
    assert calls[0] == f"{bin_folder}/python3 -m venv --clear .venv"


def test_a_venv_without_pip_gets_it(checkout: Path, bin_folder: Path) -> None:
    """It was interrupted, or made by uv."""
    add_python(checkout / ".venv" / "bin" / "python")
    done, calls = install(checkout, bin_folder)
    assert done.returncode == 0, done.stderr
    assert [call.split(" ", 1)[1] for call in calls] == [
        "-m ensurepip",
        "-m pip install --quiet --disable-pip-version-check .",
    ]


def test_where_venv_cannot_be_made_nothing_is_left(checkout: Path, bin_folder: Path) -> None:
    """Debian's python3 without python3-venv leaves an environment without pip."""
    stub = '#!/usr/bin/env bash\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin\nexit 1\n'
    (bin_folder / "python3").write_text(stub)
    (bin_folder / "python3").chmod(0o755)
    done, _ = install(checkout, bin_folder)
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_uv_is_used_where_it_is_present(checkout: Path, bin_folder: Path) -> None:
    add_python(bin_folder / "python3")
    (bin_folder / "uv").write_text('#!/usr/bin/env bash\necho "uv $*" >> "$CALLS"\nexit ${UV_STATUS:-0}\n')
    (bin_folder / "uv").chmod(0o755)
    done, calls = install(checkout, bin_folder)
    assert calls[-1] == "uv pip install --quiet --torch-backend=auto ."
    assert "0.5 GB to download without a GPU" in done.stdout

    done, calls = install(checkout, bin_folder, UV_STATUS="1")
    assert "uv failed; trying pip." in done.stdout
    assert calls[-1].startswith(".venv/bin/python -m pip install ")


def test_doctor_changes_nothing(checkout: Path, bin_folder: Path) -> None:
    add_python(bin_folder / "python3")
    done, calls = install(checkout, bin_folder, "doctor")
    assert done.returncode == 0, done.stderr
    assert calls == [f"{bin_folder}/python3 -m runtime.doctor"]
    assert not (checkout / ".venv").exists()


def test_what_building_leaves_is_ignored() -> None:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"build/", "*.egg-info/", "uv.lock", ".venv/"} <= {*lines}


def test_the_workflow_runs_files_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    for job in workflow["jobs"].values():
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
        commands = [step["run"] for step in job["steps"] if "run" in step]
        words = [word for command in commands for word in command.split()]
        paths = [word for word in words if word.startswith(("tests/", ".ci/"))]
        assert paths and all((ROOT / path).is_file() for path in paths)

"""The check at the start of each script: one line, exit code 2, and no package that it forgets."""

import ast
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from toy import ROOT

from runtime import requirements
from runtime.requirements import COMMON, is_installed, require

SCRIPTS = [
    "data.py",
    "trainer.py",
    "inference_sft.py",
    "evaluation.py",
    "export.py",
    "download_model_weight.py",
    "tokenizer.py",
    "checkpoint.py",
    "gradio/app.py",
    "training/plots.py",
    "stories/examples.py",
    "stories/demo.py",
]
WITHOUT_PACKAGES = {"config.py", "stories/world.py", "runtime/doctor.py"}
LAZY = {"training/plots.py": {"matplotlib"}}  # always needed, but imported inside a function: it is slow


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment without packages."""
    folder = tmp_path_factory.mktemp("empty") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def run(python: Path, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a Python command without the variables that lead to other packages."""
    command = [str(python), *map(str, words)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def module_imports(path: Path) -> set[str]:
    """Return the modules that a file imports at its top level."""
    modules = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def third_party(path: Path, seen: set[Path]) -> set[str]:
    """Return the third-party packages that are imported with a file."""
    packages = set()
    for module in module_imports(path):
        candidates = [folder / (module.replace(".", "/") + ".py") for folder in (ROOT, ROOT / "gradio")]
        ours = next((candidate for candidate in candidates if candidate.is_file()), None)
        if ours and ours not in seen:
            seen.add(ours)
            packages |= third_party(ours, seen)

        package = module.split(".")[0]
        is_ours = ours or (ROOT / package / "__init__.py").is_file() or (ROOT / f"{package}.py").is_file()
        is_ours = is_ours or (ROOT / "gradio" / f"{package}.py").is_file()
        if not is_ours and package not in sys.stdlib_module_names:
            packages.add(package)
    return packages


def required(path: Path) -> set[str]:
    """Return the packages that a script names in its call of require."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            return {argument.value for argument in node.args}
    raise AssertionError(f"{path} does not call require")


def test_every_script_is_listed() -> None:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in ("tests", "benchmarks")]
    paths = [path for folder in (ROOT, *folders) for path in folder.glob("*.py")]
    runnable = {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if "\nif __name__ ==" in path.read_text(encoding="utf-8")
    }
    assert runnable == {*SCRIPTS} | WITHOUT_PACKAGES
    for name in WITHOUT_PACKAGES:
        assert third_party(ROOT / name, set()) == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_names_exactly_what_it_imports(script: str) -> None:
    imported = third_party(ROOT / script, set()) | LAZY.get(script, set())
    assert required(ROOT / script) == imported - {*COMMON}


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_packages_a_script_prints_one_line(script: str, empty_python: Path) -> None:
    words = [script]
    if "/" in script and not script.startswith("gradio"):
        words = ["-m", script.removesuffix(".py").replace("/", ".")]
    result = run(empty_python, *words, "--help")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert f" is not installed in this Python ({empty_python}): " in result.stderr


def test_another_folder_gets_a_path_that_works_there(empty_python: Path, tmp_path: Path) -> None:
    result = run(empty_python, ROOT / "trainer.py", cwd=tmp_path)
    assert result.stderr.startswith("error: torch is not installed in this Python (")
    assert str(ROOT) in result.stderr.split("): ")[1]


@pytest.fixture
def copy(tmp_path: Path, empty_python: Path) -> Path:
    """Return a checkout with a blank in its path, of what the check needs."""
    folder = tmp_path / "a checkout"
    (folder / "runtime").mkdir(parents=True)
    (folder / "gradio").mkdir()
    for name in ("trainer.py", "runtime/__init__.py", "runtime/requirements.py", "gradio/app.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_remedy_fits(copy: Path, empty_python: Path, tmp_path: Path) -> None:
    def remedy(python: Path, cwd: Path = copy) -> str:
        return run(python, copy / "trainer.py", cwd=cwd).stderr.split("): ")[1].strip()

    assert remedy(empty_python) == "bash install.sh"
    assert remedy(empty_python, tmp_path) == f"bash '{copy}/install.sh'"

    venv.create(copy / ".venv", with_pip=False, symlinks=True)
    assert remedy(empty_python) == "source .venv/bin/activate"
    assert remedy(empty_python, tmp_path) == f"source '{copy}/.venv/bin/activate'"
    assert remedy(copy / ".venv/bin/python") == "bash install.sh"  # it is active and lacks the packages


def test_gradio_alone_is_added_to_any_environment(copy: Path, empty_python: Path) -> None:
    """Where a folder gradio/ is on the path, it is not taken for the package."""
    packages = copy / "packages"
    for name in ("torch", "safetensors", *COMMON):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").touch()
    code = f"import sys; sys.path.append({str(packages)!r}); sys.argv = ['gradio/app.py']; import runpy; "
    result = run(empty_python, "-c", code + "runpy.run_path('gradio/app.py', run_name='__main__')", cwd=copy)
    assert result.stderr.startswith("error: gradio is not installed in this Python (")
    assert result.stderr.endswith("): pip install gradio\n")


@pytest.mark.parametrize("script", ["runtime/requirements.py", "runtime/__init__.py", *SCRIPTS])
def test_python_3_8_can_read_it(script: str) -> None:
    ast.parse((ROOT / script).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit) as stopped:
        require("torch")
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: this Python ({sys.executable}) is 3.9, older than 3.11: ")
    assert message.count("\n") == 1


def test_nothing_is_imported_and_an_installed_package_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "COMMON", ())
    require("torch", "wandb")
    code = (
        "import sys; from runtime.requirements import require; require('torch', 'wandb'); print(*sys.modules)"
    )
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert not {"torch", "wandb", "numpy", *COMMON} & {*modules}


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandering").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("wandering")
    assert not is_installed("no_such_package")
    assert is_installed("torch")


def test_windows_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "ON_WINDOWS", True)
    monkeypatch.setattr(requirements, "ROOT", r"C:\my llama")
    assert requirements.remedy() == r'python -m pip install "C:\my llama"'


@pytest.mark.parametrize("address", ["http://a:b@127.0.0.1:port", "http://127.0.0.1:99999", "http://[::1"])
def test_a_malformed_hub_address_stops_nobody_who_needs_no_hub(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    requirements.require()
    code = "import huggingface_hub as hub; hub.HfFileSystem(); print(hub.constants.ENDPOINT)"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert shown == address.replace("://", "//")  # no address, as the hub's errors will say

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    requirements.require()
    assert os.environ["HF_ENDPOINT"] == "http://127.0.0.1:9"

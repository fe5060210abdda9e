"""The rules of the house: imports point down, importing does nothing, files stay small, names explain themselves."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "config distributed integrity template story_tables story_task_tables attention",
    "model tokenizer story_world sources store conversations batch optimizers metrics head guard parallel decode",
    "documents story_tasks batches objectives checkpoint generate plots plan fetching gguf_file page_view",
    "catalog show reference fitting suite talk legacy card skips",
    "units job evaluation export page_models",
    "data trainer inference_sft download_model_weight gradio/app",
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
FILES = [*sorted(ROOT.glob("*.py")), *sorted(ROOT.glob("gradio/*.py"))]
NAMES = [str(path.relative_to(ROOT).with_suffix("")) for path in FILES]

# Imports each module in this process and says what it did besides.
PROBE = """
import contextlib, importlib, io, json, os, socket, sys
opened, deeds = [], {}
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
os.environ.update(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
for name in sys.argv[2:]:
    folder, _, module = name.rpartition("/")
    sys.path[:0] = [os.path.join(sys.argv[1], folder)] if folder else []
    opened.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        importlib.import_module(module)
    torch = sys.modules.get("torch")
    deeds[name] = {"printed": out.getvalue() + err.getvalue(), "files": os.listdir(), "sockets": opened[:],
                   "cuda": bool(torch and torch.cuda.is_initialized()), "there": module in sys.modules}
print(json.dumps(deeds))
"""


def trees() -> dict[str, ast.Module]:
    """The syntax tree of every file of the house."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, FILES, strict=True)}


def layer_of(name: str) -> int:
    """The layer of a module; every file has one."""
    assert name in LAYER, f"{name}.py is in no layer: give it a layer in tests/test_house.py"
    return LAYER[name]


def imported(tree: ast.Module) -> set[str]:
    """The modules that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def imports_upward(trees: dict[str, ast.Module]) -> list[str]:
    """Every import of a file of ours that is not from a layer strictly below."""
    return [f"{name} imports {other}" for name, tree in trees.items() for other in sorted(imported(tree) & set(NAMES))
            if layer_of(other) >= layer_of(name)]


def test_imports_point_down() -> None:
    assert imports_upward(trees()) == []
    assert imported(trees()["trainer"]) & set(NAMES) >= {"config", "model", "objectives"}  # they are seen at all
    sibling = ast.parse("def f():\n    from tokenizer import Tokenizer")
    assert imports_upward({"model": sibling}) == ["model imports tokenizer"]


def test_every_file_has_a_layer() -> None:
    for name in NAMES:
        layer_of(name)
    with pytest.raises(AssertionError, match="give it a layer"):
        layer_of("helpers")


def probe(folder: Path, names: list[str]) -> dict[str, dict]:
    """What importing the modules, one after the other, did in a bare process in an empty folder."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", PROBE, str(ROOT), *names], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_does_nothing(tmp_path: Path) -> None:
    deeds = probe(tmp_path, NAMES)
    assert list(deeds) == NAMES and all(deed.pop("there") for deed in deeds.values())
    nothing = {"printed": "", "files": [], "sockets": [], "cuda": False}
    assert {name: deed for name, deed in deeds.items() if deed != nothing} == {}


def test_the_probe_sees_what_a_module_does(tmp_path: Path) -> None:
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "guilty.py").write_text("import socket\nopen('left', 'w')\nprint('hello')\nsocket.socket()")
    (tmp_path / "empty").mkdir()
    deed = probe(tmp_path / "empty", [f"{tmp_path}/module/guilty"]).popitem()[1]
    assert deed["printed"] == "hello\n" and deed["files"] == ["left"] and deed["sockets"]


@pytest.mark.parametrize("module, absent", [("config", "numpy torch"), ("data", "torch"),
                                            ("trainer", "torch._dynamo"), ("inference_sft", "torch._dynamo")])
def test_modules_are_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*({{*{absent.split()}}} & {{*sys.modules}}))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == ""


def test_gradio_is_no_package() -> None:
    assert not (ROOT / "gradio" / "__init__.py").exists()  # it would shadow the library


def lines(node: ast.AST) -> int:
    """The number of lines of a definition."""
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_stay_small() -> None:
    for name, tree in trees().items():
        tables = sum(lines(node) for node in tree.body if isinstance(node, ast.Assign))  # the words of the stories
        total = len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines())
        assert total - tables <= 400, f"{name}.py has {total - tables} lines"
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            assert lines(function) <= 60, f"{name}.{function.name} has {lines(function)} lines"
    train = next(node for node in trees()["trainer"].body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert 20 < lines(train) <= 60  # functions are seen at all


def silent(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods without a docstring; `forward` is what its class says."""
    kinds = ast.FunctionDef | ast.ClassDef
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    methods = [node for owner in public if isinstance(owner, ast.ClassDef) for node in owner.body
               if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name != "forward"]
    return [node.name for node in (*public, *methods) if not ast.get_docstring(node)]


def test_everything_public_has_a_docstring() -> None:
    for name, tree in trees().items():
        assert ast.get_docstring(tree), f"{name}.py does not say what it is"
        assert silent(tree) == [], f"in {name}.py"
    assert silent(ast.parse("class A:\n    def b(self): pass\ndef _c(): pass")) == ["A", "b"]


MACHINE_PATH = re.compile(r"""["'\s=(](/(?:home|root|work|mnt|Users|tmp|data|opt|usr|content)/|[A-Z]:\\)""")


def test_no_path_of_one_machine() -> None:
    for path in (*FILES, ROOT / "install.sh", ROOT / "pyproject.toml"):
        assert not MACHINE_PATH.search(path.read_text(encoding="utf-8")), path
    assert MACHINE_PATH.search('default="/mnt/c/checkpoints"')

"""Private names of libraries: pyproject.toml lists every use beside the pinned versions."""

import ast
import re
import sys
import tomllib

import pytest
from toy import ROOT

HEADING = "# Private names of the libraries pinned above"
ENTRY = re.compile(r"#   (\S+) -> (\S+)")
OUR_MODULES = {path.stem for path in ROOT.glob("*.py")} | {
    path.parent.name for path in ROOT.glob("*/__init__.py")
}


def private_uses(tree: ast.Module) -> set[str]:
    """Return the dotted private names of libraries that a file uses, such as torch._foreach_mul_.

    Names of the standard library and of this project do not count.
    """
    libraries = {}  # name in the file: dotted name of the library's
    private = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                libraries[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                libraries[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    names = set(libraries.values())
    names |= {f"{node.module}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            root = dotted.split(".")[0]
            if root in libraries and re.fullmatch(r"[\w.]+", dotted):
                names.add(libraries[root] + dotted.removeprefix(root))

    for name in names:
        top = name.split(".")[0]
        is_library = top not in OUR_MODULES and top not in sys.stdlib_module_names
        if is_library and any(is_private(part) for part in name.split(".")):
            private.add(name)
    return {name for name in private if not any(longer.startswith(f"{name}.") for longer in private)}


def is_private(part: str) -> bool:
    """Return True for _name, but not for __name__."""
    return part.startswith("_") and not part.startswith("__")


def listed() -> list[tuple[str, str]]:
    """Return the (name, file) pairs of the list in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count(HEADING) == 1
    entries = []
    for line in text.split(HEADING)[1].splitlines()[1:]:
        entry = ENTRY.fullmatch(line)
        if not entry:
            break
        entries.append((entry[1], entry[2]))
    return entries


def test_the_list_names_every_private_name_of_a_library_and_its_file() -> None:
    uses = []
    for path in sorted(ROOT.glob("**/*.py")):
        file = path.relative_to(ROOT).as_posix()
        if file.startswith(("tests/", "build/", ".")):
            continue
        uses += [(name, file) for name in private_uses(ast.parse(path.read_text(encoding="utf-8")))]
    assert len(uses) >= 5
    assert sorted(listed()) == sorted(uses)


def test_libraries_with_private_names_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    pinned = {pin.split("==")[0] for pin in pins if "==" in pin}
    assert {name.split(".")[0] for name, _ in listed()} <= pinned


@pytest.mark.parametrize(
    "code, names",
    [
        ("import torch\ntorch._foreach_mul_(a, 2)", {"torch._foreach_mul_"}),
        ("import torch.nn.functional as F\nF._x", {"torch.nn.functional._x"}),
        ("from torch import cpu\ncpu._is_amx_tile_supported()", {"torch.cpu._is_amx_tile_supported"}),
        ("from torch._dynamo import config\nconfig.x", {"torch._dynamo.config.x"}),
        ("import torch\n@torch._disable_dynamo\ndef f(): pass", {"torch._disable_dynamo"}),
        ("import os, torch\nos._exit(1)\ntorch.__version__\nrow._replace(x=1)", set()),
    ],
)
def test_private_names_are_found(code: str, names: set[str]) -> None:
    assert private_uses(ast.parse(code)) == names

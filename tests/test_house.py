"""The rules of the house: layout, import order, light imports, small files, docstrings, words."""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A file imports from rungs below its own, or from siblings in its folder; scripts at the root import no other script.
LADDER = (
    "runtime",
    "config",
    "kernels",
    "tokenization",
    "model tokenizer",
    "modelfiles",
    "checkpoint",
    "generation",
    "stories",
    "dataprep",
    "dataloader",
    "training",
    "publishing",
    "gradio",
)
SCRIPTS = "data trainer evaluation inference_sft export download_model_weight".split()
RUNG = {name: number for number, names in enumerate(LADDER) for name in names.split()}
PACKAGES = (
    "runtime kernels tokenization modelfiles generation stories dataprep dataloader training publishing"
)
FILES = sorted(
    path for folder in (".", *(d for d in LADDER if " " not in d)) for path in (ROOT / folder).glob("*.py")
)
NAMES = [str(path.relative_to(ROOT).with_suffix("")) for path in FILES]

# Imports each module in this process and says what it did besides.
PROBE = """
import contextlib, importlib, io, json, os, socket, sys
opened, deeds = [], {}
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
os.environ.update(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
sys.path.insert(0, os.path.join(sys.argv[1], "gradio"))
for module in sys.argv[2:]:
    opened.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        importlib.import_module(module)
    torch = sys.modules.get("torch")
    deeds[module] = {"printed": out.getvalue() + err.getvalue(), "files": os.listdir(), "sockets": opened[:],
                   "cuda": bool(torch and torch.cuda.is_initialized()), "there": module in sys.modules}
print(json.dumps(deeds))
"""


def trees() -> dict[str, ast.Module]:
    """The syntax tree of every file of the house."""
    return {
        name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, FILES, strict=True)
    }


def module_of(name: str) -> str:
    """The dotted name that others import a file by: gradio/ is no package."""
    return name.removeprefix("gradio/").removesuffix("/__init__").replace("/", ".")


def rung_of(name: str) -> int:
    """The rung of a file's folder, or of a file at the root; scripts stand above all."""
    top = name.split("/")[0]
    assert top in RUNG or top in SCRIPTS, f"{name}.py has no rung: give it one in tests/test_house.py"
    return RUNG.get(top, len(LADDER))


def imported(tree: ast.Module) -> set[str]:
    """The modules that a file imports, at its top or inside functions: for `from a import b` both a and a.b.

    What is imported only when the file runs as a script does not count: a script may stand above what it imports.
    """
    found = set()
    parts = [part for part in tree.body if not is_script(part)]
    for node in (node for part in parts for node in ast.walk(part)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_script(node: ast.AST) -> bool:
    """True for `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imports_upward(trees: dict[str, ast.Module]) -> list[str]:
    """Every import of a file of ours that is neither on a rung below nor a sibling in the same folder."""
    name_of = {module_of(name): name for name in NAMES}
    return [
        f"{module_of(name)} imports {other}"
        for name, tree in trees.items()
        for other in sorted(imported(tree) & name_of.keys())
        if not (
            rung_of(name_of[other]) < rung_of(name)
            or "/" in name
            and name.split("/")[0] == name_of[other].split("/")[0]
        )
    ]


def circles(trees: dict[str, ast.Module]) -> list[str]:
    """Files that reach themselves by imports."""
    modules = {module_of(name) for name in NAMES}
    graph = {module_of(name): imported(tree) & modules - {module_of(name)} for name, tree in trees.items()}

    def reach(start: str) -> set[str]:
        seen, todo = set(), [*graph[start]]
        while todo:
            if (name := todo.pop()) not in seen:
                seen.add(name)
                todo += graph[name]
        return seen

    return sorted(name for name in graph if name in reach(name))


def test_imports_point_down() -> None:
    assert imports_upward(trees()) == []
    assert imported(trees()["trainer"]) >= {
        "config",
        "training.run",
        "training.objectives",
    }  # they are seen at all
    sibling = ast.parse("def f():\n    from tokenizer import Tokenizer")
    assert imports_upward({"model": sibling}) == ["model imports tokenizer"]


def test_no_import_circle() -> None:
    assert circles(trees()) == []
    assert circles({"model": ast.parse("import trainer"), "trainer": ast.parse("import model")}) == [
        "model",
        "trainer",
    ]


def test_every_file_has_a_rung() -> None:
    for name in NAMES:
        rung_of(name)
    with pytest.raises(AssertionError, match="give it one"):
        rung_of("helpers")


def probe(folder: Path, names: list[str], root: Path = ROOT) -> dict[str, dict]:
    """What importing the modules, one after the other, did in a bare process in an empty folder."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(root), *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_does_nothing(tmp_path: Path) -> None:
    modules = [module_of(name) for name in NAMES]
    deeds = probe(tmp_path, modules)
    assert list(deeds) == modules and all(deed.pop("there") for deed in deeds.values())
    nothing = {"printed": "", "files": [], "sockets": [], "cuda": False}
    assert {name: deed for name, deed in deeds.items() if deed != nothing} == {}


def test_the_probe_sees_what_a_module_does(tmp_path: Path) -> None:
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio" / "guilty.py").write_text(
        "import socket\nopen('left', 'w')\nprint('hello')\nsocket.socket()"
    )
    (tmp_path / "empty").mkdir()
    deed = probe(tmp_path / "empty", ["guilty"], tmp_path).popitem()[1]
    assert deed["printed"] == "hello\n" and deed["files"] == ["left"] and deed["sockets"]


# What is imported before a command line is parsed, or by worker processes, loads no torch.
LIGHT = [
    "runtime.errors",
    "runtime.files",
    "runtime.checksums",
    "runtime.hub",
    "runtime.hub_client",
    "config",
    "tokenizer",
    "stories.world",
    "stories.tasks",
    "data",
    *sorted(module_of(name) for name in NAMES if name.startswith("dataprep/")),
]


@pytest.mark.parametrize(
    "modules, absent",
    [
        (LIGHT, "torch"),
        (["config"], "numpy torch"),
        (["trainer"], "torch._dynamo"),
        (["inference_sft"], "torch._dynamo"),
    ],
)
def test_modules_are_light(modules: list[str], absent: str) -> None:
    code = f"import sys, {', '.join(modules)}; print(*({{*{absent.split()}}} & {{*sys.modules}}))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == ""


def test_gradio_is_no_package() -> None:
    assert not (ROOT / "gradio" / "__init__.py").exists()  # it would shadow the library


def lines(node: ast.AST) -> int:
    """The number of lines of a definition."""
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_stay_small() -> None:
    for name, tree in trees().items():
        tables = sum(
            lines(node) for node in tree.body if isinstance(node, ast.Assign)
        )  # the words of the stories
        total = len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines())
        assert total - tables <= 400, f"{name}.py has {total - tables} lines"
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            assert lines(function) <= 60, f"{name}.{function.name} has {lines(function)} lines"
    train = next(
        node for node in trees()["trainer"].body if isinstance(node, ast.FunctionDef) and node.name == "train"
    )
    assert 20 < lines(train) <= 60  # functions are seen at all


def silent(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods without a docstring; `forward` is what its class says."""
    kinds = ast.FunctionDef | ast.ClassDef
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    methods = [
        node
        for owner in public
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name != "forward"
    ]
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


def tracked(pattern: str) -> list[Path]:
    """Return the files of the repository that match a glob, build folders and environments left out."""
    hidden = {".venv", "build", "__pycache__", "checkpoints"}
    return sorted(path for path in ROOT.glob(pattern) if not hidden & {*path.relative_to(ROOT).parts})


def test_layout() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert scripts == {"config", "model", "tokenizer", "checkpoint", *SCRIPTS}

    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == {*PACKAGES.split()}
    for folder in folders:
        init = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(init), f"{folder}/__init__.py needs a docstring"
        assert len(init.body) == 1, f"{folder}/__init__.py holds more than its docstring"


def first_words(tree: ast.Module) -> list[tuple[str, str]]:
    """Return (name, first word of the docstring) of every function and class."""
    kinds = ast.FunctionDef | ast.ClassDef
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)]
    return [(node.name, ast.get_docstring(node).split()[0]) for node in nodes]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    openings = [word for tree in trees().values() for _, word in first_words(tree)]
    articles = sum(word in ("A", "An", "The") for word in openings)
    questions = sum(word in ("What", "Whether", "Where", "Who", "How") for word in openings)
    assert len(openings) > 300
    assert articles <= 0.05 * len(openings)
    assert questions == 0


# Words that are home-made, archaic or vague; CONTRIBUTING.md names the terms to use instead.
UNUSED_WORDS = re.compile(
    r"\b(mend\w*|meets?|told|of which|of no account|the matter with|so many|so much|passed over"
    r"|made anew|anew|comes to|leaves out|leave out|way back|theirs|by itself|goes on|go on with|whole"
    r"|whereof|wherein|thereof|lest|save for)\b",
    re.IGNORECASE,
)
ALLOWED_WORDS = {
    ("whole", "evaluation.py"),
    ("whole", "trainer.py"),
    ("whole", "validation.py"),
    ("whole", "metrics.py"),
    ("whole", "advice.py"),
    ("whole", "ranges.py"),
}
VAGUE_NAMES = {"found", "made", "there", "theirs", "place", "what", "whole", "asked", "how", "said", "told"}


def prose(text: str) -> list[str]:
    """Return the comments and strings of a Python file."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kinds = (
        (tokenize.COMMENT, tokenize.STRING, tokenize.FSTRING_MIDDLE)
        if sys.version_info >= (3, 12)
        else (
            tokenize.COMMENT,
            tokenize.STRING,
        )
    )
    return [token.string for token in tokens if token.type in kinds]


def test_words() -> None:
    """Product files use no word of the list; the tables of the stories, and tests, are free."""
    bad = {}
    for path in (path for path in FILES if "tables" not in path.name):
        hits = [
            hit[0] for part in prose(path.read_text(encoding="utf-8")) for hit in UNUSED_WORDS.finditer(part)
        ]
        # A metric of evaluations is called `whole`: files on disk keep their names.
        hits = [hit for hit in hits if (hit, path.name) not in ALLOWED_WORDS]
        if hits:
            bad[str(path.relative_to(ROOT))] = hits
    assert bad == {}


def test_variables_have_names_of_their_own() -> None:
    bad = {}
    for name, tree in trees().items():
        stored = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        if vague := (stored | arguments) & VAGUE_NAMES:
            bad[name] = sorted(vague)
    assert bad == {}


def test_no_test_imports_another() -> None:
    tests = tracked("tests/**/test_*.py")
    names = {path.stem for path in tests}
    assert len(names) > 40
    assert len(names) == len(tests)  # pytest takes two files of one name for the same
    for path in tests:
        modules = {module.split(".")[-1] for module in imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert not modules & names, f"{path.relative_to(ROOT)} imports another test"


def test_every_file_has_its_tests() -> None:
    """tests/ mirrors the folders; files that are data, and those tested through their script, are listed."""
    missing = []
    for path in FILES:
        if path.name == "__init__.py" or path.name.endswith("_tables.py"):
            continue
        folder = path.parent.relative_to(ROOT)
        mirror = ROOT / "tests" / ("page" if folder.name == "gradio" else folder)
        if not list(mirror.glob(f"test_{path.stem}*.py")):
            missing.append(str(path.relative_to(ROOT)))
    assert missing == []

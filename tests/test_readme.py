"""README, docs and CONTRIBUTING say what is true: settings, commands, files, pictures, names."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pages import PAGES, shell_blocks
from stand_ins import load_app
from toy import ROOT

import config
import data
import download_model_weight
import evaluation
import export
import inference_sft
import trainer
from dataprep import registry, tokenizer_script
from model import count_parameters
from training.memory import memory_bytes
from training.memory_fit import fit_micro_batch

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
SCRIPTS = {
    "data.py": data,
    "trainer.py": trainer,
    "evaluation.py": evaluation,
    "inference_sft.py": inference_sft,
    "download_model_weight.py": download_model_weight,
    "export.py": export,
    "tokenizer.py": tokenizer_script,
    "app.py": load_app(),
}


COMMANDS = sorted(
    {
        line.strip()
        for text in TEXTS.values()
        for line in shell_blocks(text).splitlines()
        if re.search(rf"(^|\s)({'|'.join(map(re.escape, SCRIPTS))})\b", line)
    }
)


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200
    assert len(TEXTS["CONTRIBUTING.md"].splitlines()) <= 80


def test_settings_table_is_the_generated_one() -> None:
    assert config.settings_table() in TEXTS["SETTINGS.md"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script until its flags are parsed."""
    words = shlex.split(command, comments=True)
    script = next(i for i, word in enumerate(words) if word in SCRIPTS)

    class Parsed(Exception):
        pass

    real = config.Parser.parse_args

    def parse_args(self: config.Parser, *args: object) -> None:
        real(self, *args)
        raise Parsed

    monkeypatch.setattr(config.Parser, "parse_args", parse_args)
    monkeypatch.setattr("sys.argv", words[script:])
    with pytest.raises(Parsed):
        SCRIPTS[words[script]].main()


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 30
    assert {word for command in COMMANDS for word in command.split() if word in SCRIPTS} == set(SCRIPTS)


def linked_paths(page: Path) -> set[str]:
    """Return the paths of the repository that a page names or links to."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.(?:py|md|c|css|slurm|sh)|/))`", text)
    links = [
        link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith(("http://", "https://"))
    ]
    return {*named, *(str((page.parent / link).resolve().relative_to(ROOT)) for link in links)}


# Folders and files that a user has and the repository does not.
OF_USERS = {"tokenizer/", "data/", "train_state/"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_named_exists(page: Path) -> None:
    missing = {
        path
        for path in linked_paths(page) - OF_USERS
        if not (ROOT / path).exists() and not list(ROOT.glob(f"*/{path}"))
    }
    assert not missing - {path for path in missing if "<" in path}


def test_paths_are_seen() -> None:
    assert {"model.py", "generation/", "images/quickstart_loss.png", "docs/DATA.md"} <= linked_paths(PAGES[0])


def test_the_readme_lists_every_folder_and_script() -> None:
    table = TEXTS["README.md"].split("## The folders")[1].split("##")[0]
    named = set(re.findall(r"`([\w./]+)`", table))
    scripts = {path.name for path in ROOT.glob("*.py")}
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")} | {"gradio/"}
    assert named - {"tests/test_house.py"} == scripts | folders


def test_names_in_contributing_exist() -> None:
    """Each `Name` beside a `file.py` in CONTRIBUTING's tables and paths is defined in that file."""
    text = TEXTS["CONTRIBUTING.md"].split("## To change X")[1]
    pairs = re.findall(r"`(\w+)`(?:, `(\w+)`)? in `([\w/]+\.py)`", text)
    pairs += [(name, "", path) for path, name in re.findall(r"`([\w/]+\.py)` `(\w+)(?:\.\w+)?`", text)]
    assert len(pairs) >= 8

    for first, second, path in pairs:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in filter(None, (first, second)):
            assert re.search(rf"^(?:def |class )?{name}\b", source, re.MULTILINE), f"{path} has no {name}"


H100 = torch.device("cuda"), torch.bfloat16


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say that there is a card with flash attention."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))


@pytest.mark.usefixtures("h100")
def test_numbers_of_the_readme() -> None:
    """Counts and estimates that the README states are those of the code."""
    stories = config.resolve({"preset": "stories", "vocab_size": 2048})
    assert f"{registry.STORIES['stories'].rows['train']:,} stories" in TEXTS["README.md"]
    assert f"BPE of {registry.STORY_VOCABULARY:,}" in TEXTS["README.md"].replace("\n", " ")
    assert f"{count_parameters(stories) / 1e6:.1f}M parameters" in TEXTS["README.md"]

    large = config.resolve({"preset": "smol-130m", "vocab_size": 50304})
    parameters = count_parameters(large)
    assert f"{parameters / 1e6:.0f}M parameters on FineWeb" in TEXTS["README.md"]
    readme = TEXTS["README.md"].replace("\n", " ")
    assert f"{memory_bytes(large, *H100) / 1e9:.0f} GB of GPU memory" in readme
    small = large.replace(batch_size=8, micro_batch_size=None)
    assert f"{memory_bytes(small, *H100) / 1e9:.0f} GB with `--batch_size 8`" in readme
    assert f"{12 * parameters / 1e9:.1f} GB of disk for each checkpoint" in readme


@pytest.mark.usefixtures("h100")
def test_the_settings_by_gpu_memory_are_those_of_the_estimates() -> None:
    large = config.resolve({"preset": "smol-130m", "vocab_size": 50304})
    table = TEXTS["TRAINING.md"].split("## Settings by GPU memory")[1].split("##")[0]
    rows = re.findall(r"\| (\d+) GB \| (\d+) \| ([\d.]+) GB \|", table)
    assert [int(gigabytes) for gigabytes, _, _ in rows] == [8, 12, 16, 24, 80]
    for gigabytes, micro_batch_size, estimate in rows:
        fitted, _ = fit_micro_batch(large, *H100, int(gigabytes) * 1e9, largest=True)
        assert fitted.micro_batch_size == int(micro_batch_size)
        assert f"{memory_bytes(fitted, *H100) / 1e9:.1f}" == estimate


def test_the_faq_has_twenty_questions_each_with_a_command() -> None:
    questions = re.split(r"^### ", TEXTS["FAQ.md"], flags=re.MULTILINE)[1:]
    assert len(questions) == 20
    assert all("```bash" in question for question in questions)

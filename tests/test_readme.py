"""The README says what is true: its settings are the generated ones, its commands parse, its files are there."""

import re
import shlex

import pytest
from stand_ins import load_app
from toy import ROOT

import config
import data
import download_model_weight
import evaluation
import export
import inference_sft
import tokenizer
import trainer

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
SCRIPTS = {
    "data.py": data,
    "trainer.py": trainer,
    "evaluation.py": evaluation,
    "inference_sft.py": inference_sft,
    "download_model_weight.py": download_model_weight,
    "export.py": export,
    "tokenizer.py": tokenizer,
    "app.py": load_app(),
}
COMMANDS = [line for line in BLOCKS.splitlines() if re.search(r"\w+\.py\b", line)]


def test_settings_table_is_the_generated_one():
    assert config.settings_table() in README


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command, monkeypatch):
    """The script is stopped as soon as its flags are read."""
    words = shlex.split(command, comments=True)
    place = next(i for i, word in enumerate(words) if word.endswith(".py"))

    class Parsed(Exception):
        pass

    real = config.Parser.parse_args

    def parse_args(self, *args):
        real(self, *args)
        raise Parsed

    monkeypatch.setattr(config.Parser, "parse_args", parse_args)
    monkeypatch.setattr("sys.argv", words[place:])
    with pytest.raises(Parsed):
        SCRIPTS[words[place]].main()


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 8


def test_every_file_named_is_there_and_every_script_is_named():
    table = README[README.index("## The files") : README.index("## Settings")]
    named = set(re.findall(r"`((?:\w+/)?\w+\.py)`", table)) - {"gradio/app.py", "tests/test_house.py"}
    folders = "runtime generation stories dataprep dataloader training publishing".split()
    there = {
        str(path.relative_to(ROOT))
        for place in (".", "gradio", *folders)
        for path in (ROOT / place).glob("*.py")
    }
    assert named == {name for name in there if not name.endswith("__init__.py")} - {"gradio/app.py"}
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture

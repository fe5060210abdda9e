"""Random settings of the architecture and of sampling: refused in one line, or a folder that transformers loads.

The settings are words of a command line and go the way of the trainer's own.
"""

import random
import warnings
from pathlib import Path

import pytest
import torch
from random_cases import draw_words, random_cases, random_model
from toy import TINY, flags, toy_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoint import write_model
from config import Parser
from runtime.errors import UserError
from trainer import GROUPS
from training.settings import RunSetup, resolve_run

CASES = 30  # of each seed
TEXT = "The fox sat.\n¿Zwölf?"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    toy_dataset(folder, "toy", 30, "text")
    toy_dataset(folder, "talks", 30, "instruct")
    return folder


def set_up(words: list[str], capsys: pytest.CaptureFixture) -> RunSetup | str:
    """Return the set-up of a run by the words of its command line, or the line that refuses them."""
    parser = Parser("trainer")
    parser.add_settings(GROUPS)
    capsys.readouterr()
    try:
        return resolve_run(vars(parser.parse_args(words)))
    except UserError as error:
        return f"{error}\n"
    except SystemExit as error:
        assert error.code == 2
        return capsys.readouterr().err


@random_cases
def test_settings_are_refused_or_transformers_loads_the_folder(
    seed: int, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rng = random.Random(seed)
    refused = 0
    for number in range(CASES):
        words = draw_words(rng)
        fixed = {**TINY, "dataset": rng.choice(["toy", "talks"]), "data_dir": data_dir}
        del fixed["prompt"]  # it does not fit the shortest contexts
        setup = set_up([*flags(fixed), *words], capsys)
        if isinstance(setup, str):
            assert setup.count("\n") == 1 and "--" in setup, words
            refused += 1
            continue

        folder = tmp_path / str(number)
        folder.mkdir()
        model = random_model(rng, setup.args).eval()
        stage = {"stage": setup.args.train}
        write_model(folder, model, setup.tokenizer, stage, sampling=setup.args.explicit)
        assert_transformers_agrees(folder, model, setup, words)
    assert CASES / 10 <= refused <= 9 * CASES / 10


def assert_transformers_agrees(
    folder: Path, model: torch.nn.Module, setup: RunSetup, words: list[str]
) -> None:
    """Load a folder as a user of transformers would; compare token ids and logits, and generate a little."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == setup.tokenizer.encode_prompt(TEXT), words

    tokens = torch.tensor([ids[: setup.args.block_size]])
    with torch.inference_mode():
        logits, expected = model(tokens), reference(tokens).logits
        assert (logits - expected).abs().max() <= 2e-5 * expected.abs().max(), words
        assert expected.isfinite().all() and expected.std() > 0, words
        if tokens.shape[1] < setup.args.block_size:
            reference.generate(tokens, max_new_tokens=1)

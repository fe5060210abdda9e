"""Step folders: Hugging Face models that transformers reads unchanged, and errors for those that are broken."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from toy import TINY, flags, toy_dataset

import checkpoint
import trainer
from checkpoint import GENERATION_CONFIG, SAMPLING, hf_generation_config, load_model, load_sampling
from config import ModelArgs
from generation.generate import GREEDY, generate
from runtime.errors import UserError
from training import state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short finished run, made in this process."""
    folder = tmp_path_factory.mktemp("run")
    toy_dataset(folder / "data")
    words = flags(
        {
            **TINY,
            "data_dir": folder / "data",
            "save_checkpoint_dir": folder / "runs",
            "total_iters": 4,
            "eps": 1e-6,
            "rope_theta": 500.0,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["trainer.py", *words])
        trainer.main()
    return folder / "runs" / "P-toy"


def test_a_step_carries_the_sampling_settings_of_its_run(run, tmp_path):
    from transformers import GenerationConfig

    step = run / "step_000004"
    sampling = load_sampling(step)
    assert sampling == {name: getattr(ModelArgs(), name) for name in SAMPLING} | {"max_length": 5}
    theirs = GenerationConfig.from_pretrained(step)
    assert theirs.do_sample and theirs.max_new_tokens == 5 and theirs.temperature == 0.8

    greedy = {**sampling, "temperature": 0.0, "max_length": 7}
    (tmp_path / GENERATION_CONFIG).write_text(json.dumps(hf_generation_config(greedy, 3)))
    assert load_sampling(tmp_path) == {
        "max_length": 7,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "num_beams": 1,
    }
    (tmp_path / GENERATION_CONFIG).write_text('{"top_p": "much"}')
    with pytest.raises(UserError, match="generation_config.json is broken"):
        load_sampling(tmp_path)
    assert load_sampling(tmp_path / "elsewhere") == {}


@pytest.fixture
def broken(run, tmp_path):
    """A copy of the newest step, to be damaged."""
    return shutil.copytree(run / "step_000004", tmp_path / "step")


def test_transformers_gives_our_logits_ids_and_greedy_text(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    step = run / "step_000004"
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(step), AutoTokenizer.from_pretrained(step)
    model, tokenizer = load_model(step)
    text = "the red fox saw a small boat"
    ids = tokenizer.encode(text)
    assert their_tokenizer(text)["input_ids"] == ids and len(ids) == len(text)
    with torch.no_grad():
        tokens = torch.tensor([ids])
        logits = model(tokens)
        assert (theirs(tokens).logits - logits).abs().max() < 1e-5 * logits.abs().max()
    ours = list(generate(model, ids[:7], 20, [tokenizer.eos_id], GREEDY))
    output = theirs.generate(torch.tensor([ids[:7]]), do_sample=False, max_new_tokens=20)[0, 7:].tolist()
    assert output[: len(ours)] == ours and len(ours) >= 5


def test_run_folder_means_its_newest_step(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "latest").write_bytes(b"\xff\xfe")
    assert checkpoint.find_model(copy) == copy / "step_000004"
    assert checkpoint.find_model(run) == run / "step_000004"
    model, tokenizer = load_model(run)
    assert not model.training and tokenizer.vocab_size == 257
    assert model.lm_head.weight is model.model["embed_tokens"].weight


def test_state_holds_all_settings_and_the_position(run):
    state = json.loads((run / "step_000004" / "train_state" / "state.json").read_text())
    assert (state["step"], state["cursor"], state["tokens"]) == (4, 32, 1024)
    assert state["args"]["max_lr"] == 1e-2 and state["args"]["dtype"] == "float32"
    assert not {"resume", "device", "dry_run"} & state["args"].keys()


def test_broken_weights_are_one_clear_line(broken):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken or cut short"):
        load_model(broken)


def test_weights_of_another_shape_are_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(UserError, match="gate_proj.weight is missing, too many or misshapen"):
        load_model(broken)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model_type": "gpt2"}, "model_type gpt2"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type yarn"),
    ],
)
def test_models_that_ours_is_not_are_refused(broken, change, named):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=named):
        load_model(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 320.5},
        {"vocab_size": "320"},
        {"rms_norm_eps": None},
        {"rope_parameters": {"rope_theta": None}},
        {"head_dim": "8"},
        {"max_position_embeddings": 1e3},
    ],
)
def test_a_config_of_odd_values_is_broken(broken, change):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match="config.json is broken"):
        load_model(broken)


@pytest.mark.parametrize(
    "content", ["[]", "5", '{"format": 2, "step": 1, "cursor": 8, "tokens": 256}', "\xff"]
)
def test_a_state_that_is_none_is_broken(broken, content):
    (broken / "train_state" / "state.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="state.json is broken"):
        state.load_state(broken)


def test_config_that_is_no_json_and_folder_without_model(broken, tmp_path):
    (broken / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is broken"):
        load_model(broken)
    with pytest.raises(UserError, match="no model in"):
        load_model(tmp_path / "nowhere")


def test_training_state_runs_no_code(broken):
    """A pickle that would run something is refused, and nothing is run."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(broken / "exploded"), "w"))

    torch.save([Bomb()], broken / "train_state" / "optimizer.pt")
    env = trainer.distributed.init("cpu", None)
    with pytest.raises(UserError, match="cannot be read"):
        state.restore(broken, torch.nn.Linear(1, 1), [], torch.amp.GradScaler("cpu", enabled=False), env)
    assert not (broken / "exploded").exists()


def test_sharded_foreign_folder_loads(run, tmp_path):
    """A Llama folder as others write it: several weight files, untied head, no train_state."""
    from safetensors.torch import load_file, save_file

    target = shutil.copytree(
        run / "step_000004", tmp_path / "foreign", ignore=shutil.ignore_patterns("train_state")
    )
    weights = load_file(target / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    (target / "model.safetensors").unlink()
    names = sorted(weights)
    save_file({name: weights[name] for name in names[::2]}, target / "model-00001-of-00002.safetensors")
    save_file({name: weights[name] for name in names[1::2]}, target / "model-00002-of-00002.safetensors")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(load_model(target)[0](tokens), 2 * load_model(run)[0](tokens))
    with pytest.raises(UserError, match="--init_from"):
        state.load_state(target)


def test_weights_that_find_no_room_are_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        checkpoint._save_weights({}, tmp_path / "model.safetensors")
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "model.safetensors")


def test_a_guest_may_say_some_of_the_sampling_settings() -> None:
    config = checkpoint.hf_generation_config({"temperature": 0.6, "top_p": 0.9}, 5)
    assert config["temperature"] == 0.6 and config["do_sample"] and "num_beams" not in config

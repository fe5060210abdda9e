"""config.json of other programs: defaults and rotary scaling as transformers has them, and refusals by name."""

from pathlib import Path

import pytest
import torch
import transformers

from checkpoint import hf_config, load_llama, write_model
from generation.generate import GREEDY, generate
from model import Llama
from modelfiles.llama_config import DEFAULTS, own_metadata, parse_config
from runtime.errors import UserError
from runtime.files import write_json
from tokenizer import byte_level

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def parse(**config: object):
    return parse_config(Path("guest"), {"model_type": "llama", **config})


def test_missing_keys_are_those_of_transformers() -> None:
    theirs = transformers.LlamaConfig().to_dict()
    theirs |= {"rope_theta": theirs["rope_parameters"]["rope_theta"]}
    assert {name: theirs[name] for name in DEFAULTS} == DEFAULTS
    args = parse(num_key_value_heads=None)
    assert (args.eps, args.rope_theta, args.no_kv_heads, args.head_dim) == (1e-6, 10000.0, 32, 128)


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("scaling", [LLAMA3, {"type": "linear", "factor": 2}])
def test_scaling_is_read_by_both_names_and_written_again(name: str, scaling: dict) -> None:
    args = parse(rope_theta=500.0, **{name: scaling})
    assert args.rope_theta == 500.0
    assert args.rope_scaling == {"rope_type": scaling.get("type", "llama3")} | {
        key: value for key, value in scaling.items() if key != "type"
    }
    written = hf_config(args, eos_id=0)
    assert parse(**written).rope_scaling == args.rope_scaling
    assert written["rope_scaling"] == args.rope_scaling
    assert parse(**{**written, "rope_parameters": None}).rope_scaling == args.rope_scaling


def test_llama3_without_an_original_context_takes_the_models(scaling: dict = LLAMA3) -> None:
    without = {key: value for key, value in scaling.items() if not key.startswith("original")}
    args = parse(max_position_embeddings=77, rope_scaling=without)
    assert args.rope_scaling["original_max_position_embeddings"] == 77


@pytest.mark.parametrize(
    "scaling",
    [
        {**LLAMA3, "factor": "8"},
        {**LLAMA3, "factor": 0.0},
        {**LLAMA3, "factor": True},
        {**LLAMA3, "high_freq_factor": 1.0},
        {"rope_type": "linear"},
        "llama3",
    ],
)
def test_broken_scaling_is_one_line(scaling: object) -> None:
    with pytest.raises(UserError, match="config.json is broken"):
        parse(rope_scaling=scaling)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "qwen2"}, "model_type qwen2 needs biases of the projections"),
        ({"model_type": "mistral"}, "model_type mistral needs attention in a sliding window"),
        ({"model_type": "unheard"}, "model_type unheard needs another model.py"),
        ({"model_type": None}, "model_type None"),
        ({"attention_bias": True}, "attention_bias needs"),
        ({"mlp_bias": True}, "mlp_bias needs"),
        ({"hidden_act": "gelu"}, "hidden_act gelu needs"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type dynamic needs"),
        ({"rope_scaling": {"rope_type": "new"}}, "rope_type new needs other rotary frequencies"),
        ({"rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
    ],
)
def test_what_ours_is_not_is_refused_with_what_it_would_need(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(**config)


@pytest.mark.parametrize(
    "scaling", [LLAMA3, {"rope_type": "linear", "factor": 4.0}], ids=["llama3", "linear"]
)
def test_a_scaled_guest_writes_as_transformers_does(tmp_path: Path, scaling: dict) -> None:
    """Prompt in torch, tokens by the C decoder where there is a compiler; and again from what we write."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=20,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,
        rope_parameters={**scaling, "rope_theta": 1000.0},
        eos_token_id=None,
        bos_token_id=None,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "guest")
    ours = load_llama(tmp_path / "guest")

    prompt = torch.randint(320, (1, 40))
    with torch.no_grad():
        expected = theirs(prompt).logits
        assert (ours(prompt) - expected).abs().max() < 2e-5 * expected.abs().max()
    greedy = theirs.generate(prompt, do_sample=False, max_new_tokens=60)[0, 40:].tolist()
    assert list(generate(ours, prompt[0].tolist(), 60, params=GREEDY)) == greedy

    (tmp_path / "again").mkdir()
    write_model(tmp_path / "again", ours, byte_level(), {"stage": "P"})
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert load_llama(tmp_path / "again").args == ours.args
    with torch.no_grad():
        assert torch.equal(again(prompt).logits, expected)
    unscaled = Llama(ours.args.replace(rope_scaling=None)).eval()
    unscaled.load_state_dict(ours.state_dict())
    assert (unscaled(prompt) - expected).abs().max() > 1e-2 * expected.abs().max()


WRONG = [-1, 0, 1.5, 64.0, True, "64", [], {}, 10**30, 10**400, float("nan"), float("inf"), "1" * 50]
SIZES = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim "
    "max_position_embeddings"
).split()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:10])
def test_a_size_of_another_kind_is_one_line(name: str, value: object) -> None:
    """What is too large for any memory is refused by the files of weights, see test_weights.py."""
    try:
        args = parse(**{name: value})
    except UserError:
        return
    assert value == 10**30 and type(args.vocab_size) is int


@pytest.mark.parametrize("value", [-1.0, 0, True, "1", [], float("nan"), float("inf"), 10**400], ids=str)
def test_numbers_out_of_range_are_one_line(value: object) -> None:
    for config in ({"rope_theta": value}, {"rope_parameters": {"rope_theta": value}}):
        with pytest.raises(UserError, match="config.json is broken|rope_theta"):
            parse(**config)
    with pytest.raises(UserError):
        parse(tie_word_embeddings="false" if value is True else value)


def test_what_is_our_own_is_read_only_from_an_object(tmp_path: Path) -> None:
    for value, expected in ((5, {}), ("x", {}), ([], {}), (None, {}), ({"stage": "S"}, {"stage": "S"})):
        write_json(tmp_path / "config.json", {"smolllama": value})
        assert own_metadata(tmp_path) == expected

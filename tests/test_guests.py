"""A foreign Llama through every door: prepared, tuned, talked to, exported, and read again by transformers."""

import json
from pathlib import Path

import pytest
import transformers
from exports import call
from guests import CHATML, write_guest, write_random_llama
from prepared import inline  # noqa: F401  (a fixture: workers in this process)
from replies import PageModel, StageModels
from toy import TINY, flags, toy_rows

import data
import evaluation
import export
import inference_sft
import trainer
from config import ModelArgs
from generation.chat import load_chat_model
from runtime.errors import UserError

QUESTION = [{"role": "user", "content": "Say fox"}]


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """Folder of a random Llama as transformers writes it, with a begin token and ChatML."""
    write_random_llama(tmp_path / "Guest-1M")
    folder = write_guest(tmp_path / "Guest-1M", CHATML, as_file=True)
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    (folder / "LICENSE").write_text("the licence")
    return folder


def prepared_rows(folder: Path, kind: str, guest: Path, run, *words: str) -> Path:
    """Prepare toy rows of a kind with the guest's tokenizer; return the dataset."""
    rows = folder / f"{kind}.jsonl"
    rows.write_text("\n".join(map(json.dumps, toy_rows(kind, 60, 1))))
    line = [
        "--files",
        rows,
        "--name",
        kind,
        "--kind",
        kind,
        "--tokenizer",
        guest,
        "--data_dir",
        folder / "data",
    ]
    run(data, *line, "--num_proc", "1", *words)
    return folder / "data" / kind


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Function that calls the main of a script with words and returns the lines of stdout."""
    return lambda module, *words: call(module, monkeypatch, capsys, *words)


def tuned(folder: Path, guest: Path, run, **settings: object) -> Path:
    """Fine-tune a guest for a few steps; return the run's folder."""
    words = flags(
        {
            **TINY,
            "train": "S",
            "dataset": "instruct",
            "data_dir": folder / "data",
            "save_checkpoint_dir": folder / "runs",
            "init_from": guest,
            "block_size": 96,
            "batch_size": 4,
            "total_batch_size": 384,
            "total_iters": 12,
            **settings,
        }
    )
    own = ("embeddings_dims", "no_of_decoder_layers", "no_of_heads", "no_kv_heads")
    kept = [
        word
        for number, word in enumerate(words)
        if word.removeprefix("--") not in own and words[number - 1].removeprefix("--") not in own
    ]
    lines = run(trainer, *kept)
    assert any(
        "template: the chat template of its tokenizer; a response ends with <|im_end|>" in x for x in lines
    )
    return folder / "runs" / "S-instruct"


def on_the_page(name: str, env) -> str:
    """Return the greedy reply of a model that the page was started with."""
    models = StageModels(ModelArgs(temperature=0.0, max_length=20), env, [name])
    assert models.choices == {name: PageModel("exported", instruct=True, own_template=True)}
    *_, reply = models.stream_reply(name, QUESTION, models.args)
    return reply.text


def test_a_tuned_guest_answers_in_its_template_everywhere(
    guest: Path,
    tmp_path: Path,
    run,
    inline,  # noqa: F811
    env,
) -> None:
    dataset = prepared_rows(tmp_path, "instruct", guest, run)
    meta = json.loads((dataset / "meta.json").read_text())
    assert meta["template"] == CHATML and (dataset / "tokenizer" / "tokenizer.model").is_file()

    folder = tuned(tmp_path, guest, run)
    run(export, "--model", folder, "--to", tmp_path / "exported")
    for name in ("tokenizer.model", "chat_template.jinja", "LICENSE"):
        assert (tmp_path / "exported" / name).read_bytes() == (guest / name).read_bytes()
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (300, 301)
    assert config["smolllama"] == {"stage": "S", "base_model": {"name": "Guest-1M"}}

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=20)
    theirs = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = ("--prompt", "Say fox", "--temperature", "0", "--max_length", "20")
    for model_folder in (folder, tmp_path / "exported"):
        assert run(inference_sft, "--model", model_folder, *asked) == theirs.splitlines()
    assert on_the_page(str(tmp_path / "exported"), env) == theirs

    scores = json.loads(
        "".join(
            run(
                evaluation,
                "--model",
                folder,
                "--dataset",
                "instruct",
                "--data_dir",
                tmp_path / "data",
                "--json",
            )
        )
    )
    assert scores["loss"] > 0 and scores["tokens"] > 0
    prepared_rows(tmp_path, "instruct", guest, run, "--name", "ours", "--template", "smolllama")
    with pytest.raises(UserError, match="another chat template than the model's"):
        run(evaluation, "--model", folder, "--dataset", "ours", "--data_dir", tmp_path / "data", "--json")


def test_a_guest_is_talked_to_as_its_folder_says(guest: Path, tmp_path: Path) -> None:
    instruct = load_chat_model(guest)
    assert instruct.stage is None and instruct.is_instruct
    assert instruct.stop_ids == [instruct.tokenizer.hf.token_to_id("<|im_end|>"), 301]
    reference = transformers.AutoTokenizer.from_pretrained(guest)
    assert instruct.encode(QUESTION) == reference.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    assert instruct.encode(QUESTION, raw=True) == reference("Say fox").input_ids

    (guest / "chat_template.jinja").unlink()
    base = load_chat_model(guest)
    assert not base.is_instruct and base.encode(QUESTION) == reference("Say fox").input_ids


def test_texts_begin_with_the_begin_token(guest: Path, tmp_path: Path, run, inline) -> None:  # noqa: F811
    dataset = prepared_rows(tmp_path, "text", guest, run)
    tokens = data_tokens(dataset)
    ends = [number for number, token in enumerate(tokens) if token == 301]
    assert tokens[0] == 300 and tokens.count(300) == tokens.count(301) > 20
    assert all(tokens[end + 1] == 300 for end in ends[:-1])


def data_tokens(dataset: Path) -> list[int]:
    """Return the token ids of the train set."""
    from dataprep.shards import TokenDataset, read_meta

    train = TokenDataset(dataset, "train", read_meta(dataset))
    return [int(token) for number in range(train.documents) for token in train.document(number)[0]]


def test_the_template_may_be_chosen(guest: Path, tmp_path: Path, run, inline) -> None:  # noqa: F811
    dataset = prepared_rows(tmp_path, "instruct", guest, run, "--template", "smolllama")
    template = json.loads((dataset / "meta.json").read_text())["template"]
    assert template.startswith("{{ bos_token }}") and "### Instruction:" in template
    with pytest.raises(UserError, match="already prepared, with other settings .the chat template."):
        prepared_rows(tmp_path, "instruct", guest, run)
    with pytest.raises(UserError, match="--template own: --tokenizer gpt2 has no chat template of its own"):
        prepared_rows(tmp_path, "instruct", Path("gpt2"), run, "--template", "own")


def test_rows_that_a_template_refuses_are_named(guest: Path, tmp_path: Path, run, inline) -> None:  # noqa: F811
    refuses = "{{ raise_exception('no system here') if messages[0]['role'] == 'system' }}" + CHATML
    (guest / "chat_template.jinja").write_text(refuses)
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"messages": each}) for each in (turns[1:], turns, turns[1:])))
    line = [
        "--files",
        rows,
        "--name",
        "n",
        "--kind",
        "instruct",
        "--tokenizer",
        guest,
        "--data_dir",
        tmp_path / "data",
    ]
    with pytest.raises(UserError, match=r"row 2.*no system here.*--template smolllama"):
        run(data, *line, "--num_proc", "1")
    lines = run(data, *line, "--num_proc", "1", "--skip_bad_rows")
    assert any("1 " in each and "left out" in each for each in lines), lines


def test_a_system_turn_that_the_template_refuses_has_a_remedy(guest: Path, tmp_path: Path) -> None:
    refuses = "{{ raise_exception('no system here') if messages[0]['role'] == 'system' }}" + CHATML
    (guest / "chat_template.jinja").write_text(refuses)
    with pytest.raises(UserError, match="no system here.*drop the system turn .--system; /system alone"):
        load_chat_model(guest).encode([{"role": "system", "content": "s"}, *QUESTION])
    with pytest.raises(UserError, match="holds bytes that are no UTF-8"):
        load_chat_model(guest).encode([{"role": "user", "content": "\udce9"}])


def test_a_tuned_guest_keeps_its_sampling_settings(guest: Path, tmp_path: Path, run, inline) -> None:  # noqa: F811
    own = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [301, 303]}
    (guest / "generation_config.json").write_text(json.dumps(own))
    prepared_rows(tmp_path, "instruct", guest, run)
    folder = tuned(tmp_path, guest, run, total_iters=1, eval_iters=1, top_p=0.5)
    step = folder / (folder / "latest").read_text()
    config = json.loads((step / "generation_config.json").read_text())
    assert (config["temperature"], config["top_p"], config["eos_token_id"]) == (0.6, 0.5, [301, 303])


def test_a_card_of_others_is_not_replaced(guest: Path, tmp_path: Path, run) -> None:
    (guest / "README.md").write_text("# Somebody's card")
    with pytest.raises(UserError, match="README.md is not replaced, since SmolLlama did not write it"):
        run(export, "--model", guest, "--card")
    assert (guest / "README.md").read_text() == "# Somebody's card"
    for _ in range(2):
        run(export, "--model", guest, "--card", "--to", tmp_path / "card", "--max_length", "3")

"""Long texts: the tokens of the pieces are those of the text."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dataprep import long_texts
from dataprep.long_texts import encode_text
from tokenizer import Tokenizer, load_tokenizer

TEXT = "First, you know\nCaius  Marcius\n\n  is chief enemy.\t\t 你好\u3000再见 we'll " * 40


def foreign() -> Tokenizer:
    """Return a tokenizer with the pre-tokenizer of GPT-NeoX, encoded by tokenizers."""
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], show_progress=False)
    )
    return Tokenizer(hf, {"eos_token": "</s>"}, None)


@pytest.mark.parametrize("size", [1, 10, 77])
@pytest.mark.parametrize("name", ["gpt2", "bytes", "foreign"])
def test_the_tokens_do_not_depend_on_the_pieces(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = foreign() if name == "foreign" else load_tokenizer(name)
    expected = tokenizer.encode(TEXT)
    lengths: list[int] = []
    encode = tokenizer.encode_array
    monkeypatch.setattr(tokenizer, "encode_array", lambda text: lengths.append(len(text)) or encode(text))
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", size)
    assert encode_text(TEXT, tokenizer, ends=False).tolist() == expected
    assert encode_text(TEXT, tokenizer, ends=True).tolist() == [*expected, tokenizer.eos_id]
    assert len(lengths) > 40 and max(lengths) < size + 20


def test_text_without_white_space_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 10)
    assert encode_text("x" * 100, load_tokenizer("bytes"), ends=True).tolist() == [ord("x")] * 100 + [256]

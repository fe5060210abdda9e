"""Tokenizers as llama.cpp reads them from a GGUF file: SentencePiece vocabularies and byte-level BPEs.

llama.cpp does not read the rules by which a byte-level BPE splits a text into words: it knows them by name. The name is
found as its converter finds it, by the token ids of a fixed text, or by the rules themselves, where they are the same.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field

import gguf
import tokenizers
from gguf import TokenType

from config import EOS
from publishing.pre_tokenizer_tables import CHECK_TEXT, CHECK_VALUES, IGNORES_MERGES, PRE_TOKENIZERS
from runtime.errors import UserError
from tokenizer import Tokenizer

SPACE = "\u2581"  # SentencePiece's sign for a blank
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a tokenizer and what llama.cpp needs to encode as it does.

    `kind` is llama.cpp's name: "llama" is SentencePiece, with scores; "gpt2" is byte-level BPE, with merges.
    """

    kind: str
    pre_tokenizer: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special_ids: dict[str, int] = field(
        default_factory=dict
    )  # bos, eos, unk, pad, and eot, the end of a turn
    adds_bos: bool = False
    adds_space: bool = False  # before a text


def read_vocabulary(tokenizer: Tokenizer, num_rows: int) -> Vocabulary:
    """Return a tokenizer for llama.cpp, padded to the rows of the embedding.

    Raises UserError for those that llama.cpp does not have.
    """
    content = json.loads(tokenizer.hf.to_str())
    model = content["model"]
    special_ids, adds_bos = _special_ids(tokenizer)
    tokens, types = _tokens(content, special_ids, num_rows)

    if model["type"] == "BPE" and model.get("byte_fallback"):
        return Vocabulary(
            kind="llama",
            pre_tokenizer="default",
            tokens=tokens,
            types=types,
            scores=_scores(model["merges"], tokens),
            special_ids=special_ids,
            adds_bos=adds_bos,
            adds_space=_adds_space(content),
        )

    merges = [" ".join(pair) for pair in model.get("merges", [])]
    if not merges:  # of a byte tokenizer; llama.cpp needs one, so it gets one that never applies
        merges = [f"{EOS} {EOS}"]
    return Vocabulary(
        kind="gpt2",
        pre_tokenizer="gpt-2" if tokenizer.fast else _pre_tokenizer(tokenizer.hf, content),
        tokens=tokens,
        types=types,
        merges=merges,
        special_ids=special_ids,
        adds_bos=adds_bos,
    )


def _refuse(reason: str) -> UserError:
    return UserError(
        f"llama.cpp does not have this tokenizer ({reason}): export with --format safetensors, for transformers and "
        "vLLM"
    )


def _special_ids(tokenizer: Tokenizer) -> tuple[dict[str, int], bool]:
    """Return the ids of special tokens by GGUF's names, and whether a text begins with bos."""
    names = {"bos": "bos_token", "eos": "eos_token", "unk": "unk_token", "pad": "pad_token"}
    named = {short: tokenizer.settings.get(name) for short, name in names.items()}
    special_ids = {
        short: tokenizer.hf.token_to_id(token)
        for short, token in named.items()
        if isinstance(token, str) and tokenizer.hf.token_to_id(token) is not None
    }
    special_ids["eos"] = tokenizer.eos_id
    if turn_ends := [token_id for token_id in tokenizer.stop_ids if token_id != tokenizer.eos_id]:
        special_ids["eot"] = turn_ends[0]

    if len(tokenizer.begin_ids) > 1:
        raise _refuse(f"it begins a text with {len(tokenizer.begin_ids)} special tokens")
    if tokenizer.begin_ids:
        special_ids["bos"] = tokenizer.begin_ids[0]
    special_ids.setdefault("bos", tokenizer.eos_id)  # or llama.cpp takes an id of its own
    return special_ids, bool(tokenizer.begin_ids)


def _tokens(content: dict, special_ids: dict[str, int], num_rows: int) -> tuple[list[str], list[TokenType]]:
    """Return the tokens and their types by id; rows of the embedding without a token are UNUSED."""
    tokens = [f"[PAD{token_id}]" for token_id in range(num_rows)]
    types = [TokenType.UNUSED] * num_rows
    has_byte_tokens = content["model"].get("byte_fallback")
    vocabulary = content["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        raise _refuse(f"a {content['model']['type']} model")

    for token, token_id in vocabulary.items():
        is_byte = has_byte_tokens and BYTE_TOKEN.fullmatch(token)
        tokens[token_id] = token
        types[token_id] = TokenType.BYTE if is_byte else TokenType.NORMAL

    for added in content["added_tokens"]:
        token_id = added["id"]
        is_control = added["special"] or token_id == special_ids["eos"]
        types[token_id] = TokenType.CONTROL if is_control else TokenType.USER_DEFINED
        tokens[token_id] = added["content"]
        if has_byte_tokens and not is_control:
            tokens[token_id] = added["content"].replace(SPACE, " ")  # as llama.cpp compares them

    if has_byte_tokens and "unk" in special_ids:
        types[special_ids["unk"]] = TokenType.UNKNOWN
    if has_byte_tokens and types.count(TokenType.BYTE) != 256:
        raise _refuse("it does not have a token for each byte")
    return tokens, types


def _scores(merges: list, tokens: list[str]) -> list[float]:
    """Return a score for each token: tokens that merge first are highest, as in SentencePiece's own file."""
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    return [-float(rank.get(token, len(rank))) for token in tokens]


def _adds_space(content: dict) -> bool:
    """Check whether a SentencePiece tokenizer puts a blank before a text. Raises UserError for other changes to it."""
    normalizer, pre_tokenizer = content["normalizer"] or {}, content["pre_tokenizer"]
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    prepend = {"type": "Prepend", "prepend": SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}

    if pre_tokenizer is None and steps in ([prepend, replace], [replace]):
        return prepend in steps
    if pre_tokenizer and pre_tokenizer["type"] == "Metaspace" and not pre_tokenizer["split"] and not steps:
        return pre_tokenizer["prepend_scheme"] != "never"
    raise _refuse(f"SentencePiece with {_types(content) or 'no step'}")


def _pre_tokenizer(hf: tokenizers.Tokenizer, content: dict) -> str:
    """Return llama.cpp's name for the way in which a byte-level BPE splits text. Raises UserError without one."""
    ids = hf.encode(CHECK_TEXT).ids
    check_value = hashlib.sha256(str(ids).encode()).hexdigest()
    if check_value in CHECK_VALUES:
        return CHECK_VALUES[check_value]

    name = PRE_TOKENIZERS.get(_rules(content))
    ignores_merges = bool(content["model"].get("ignore_merges"))
    if name is None or content["model"]["type"] != "BPE" or ignores_merges != (name in IGNORES_MERGES):
        known = ", ".join(dict.fromkeys(CHECK_VALUES.values()))
        raise _refuse(f"it splits text by {_types(content) or 'no rule'}, which is none of {known}")
    return name


def _rules(content: dict) -> tuple[str | None, ...]:
    """Return normalizer and pre-tokenizer in the words of PRE_TOKENIZERS."""
    normalizer, pre_tokenizer = content["normalizer"], content["pre_tokenizer"] or {}
    rules: list[str | None] = [normalizer["type"] if normalizer else None]
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        match step:
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
                rules.append("words of bytes" if use_regex else "bytes")
            case {"type": "Digits", "individual_digits": True}:
                rules.append("digits")
            case {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": regex}}:
                rules.append(regex)
            case _:
                rules.append("other")
    return tuple(rules)


def _types(content: dict) -> str:
    """Return the names of the steps before the model, for a message."""
    names = []
    for part in (content["normalizer"], content["pre_tokenizer"]):
        part = part or {}
        steps = part.get("normalizers") or part.get("pretokenizers") or [part]
        names += [step["type"] for step in steps if step]
    return ", ".join(names)


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add a tokenizer to a GGUF file."""
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.kind == "llama":
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.adds_space)
    else:
        writer.add_token_merges(vocabulary.merges)

    add_id = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "eot": writer.add_eot_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, token_id in vocabulary.special_ids.items():
        add_id[name](token_id)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)

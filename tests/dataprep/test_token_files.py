"""Token files of datatrove: written here byte by byte after its format, read, split and refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest

from dataprep.ranges import local_ranges
from dataprep.shards import SPLITS, TokenDataset, read_meta
from tokenizer import byte_level, gpt2

inline, command = prepared.inline, prepared.command

TEXTS = [f"text {n}: " + "the fox saw a boat. It is naïve. " * (1 + n % 5) + "The end." for n in range(120)]


def write_ds(path: Path, documents: list[list[int]], width: int = 2, tokenizer: str = "gpt2") -> Path:
    """Write documents as datatrove's DocumentTokenizer does: ids and, in the index, where each document ends."""
    path.parent.mkdir(exist_ok=True)
    ends: list[int] = []
    with path.open("wb") as file:
        for ids in documents:
            file.write(struct.pack(f"<{len(ids)}{'H' if width == 2 else 'I'}", *ids))
            ends.append(len(ids) + (ends[-1] if ends else 0))
    path.with_name(path.name + ".index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    path.with_name(path.name + ".metadata").write_text(f"{tokenizer}|{width}\n{ends[-1]}\n1 T")
    return path


def encoded(texts: list[str], eos: bool = True) -> list[list[int]]:
    tokenizer = gpt2()
    return [tokenizer.encode(text) + [tokenizer.eos_id] * eos for text in texts]


def read(folder: Path) -> dict[str, list[list[int]]]:
    """Return the ids of the documents of each split."""
    meta = read_meta(folder)
    splits = {split: TokenDataset(folder, split, meta) for split in SPLITS}
    return {
        split: [dataset.document(n)[0].tolist() for n in range(dataset.documents)]
        for split, dataset in splits.items()
    }


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("eos", [True, False])
def test_the_documents_of_a_folder_are_split_and_end(
    width: int, eos: bool, inline: None, command: Callable, tmp_path: Path
) -> None:
    documents = encoded(TEXTS, eos)
    for number in range(3):
        name = f"0000{number}_00000_shuffled.ds"
        write_ds(tmp_path / "tokens" / name, documents[40 * number : 40 * (number + 1)], width)
    code, out, err = command("--files", tmp_path / "tokens", "--name", "web", "--kind", "text")
    assert code == 0, err
    assert f"{tmp_path / 'tokens'}: 3 .ds\n" in out  # the other files are a part of these

    folder = tmp_path / "data" / "web"
    splits = read(folder)
    assert sorted(splits["train"] + splits["val"]) == sorted(encoded(TEXTS))
    assert 0.05 < sum(map(len, splits["val"])) / sum(map(len, documents)) < 0.2
    shards = [shard for split in SPLITS for shard in read_meta(folder)["splits"][split]]
    assert sum(shard["bytes"] for shard in shards) == sum(len(text.encode()) for text in TEXTS)

    texts = tmp_path / "texts"
    texts.mkdir()
    for number, text in enumerate(TEXTS):
        (texts / f"{number:03}.txt").write_text(text)
    assert command("--files", texts, "--name", "same", "--kind", "text")[0] == 0
    same = read(tmp_path / "data" / "same")
    assert sorted(same["train"] + same["val"]) == sorted(splits["train"] + splits["val"])


def test_ranges_have_every_document_once(tmp_path: Path) -> None:
    path = write_ds(tmp_path / "a.ds", [[1] * n for n in (5, 1, 300, 2, 0, 7)])
    for target in (1, 20, 10_000):
        ranges = local_ranges([str(path)], target)
        assert [n for each in ranges for n in range(each.start, each.stop)] == list(range(6))
        assert sum(each.bytes for each in ranges) == 2 * 315


def no_index(path: Path) -> None:
    path.with_name(path.name + ".index").unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def broken_index(path: Path) -> None:
    path.with_name(path.name + ".index").write_bytes(b"\0" * 12)


def loss_mask(path: Path) -> None:
    path.with_name(path.name + ".loss").write_bytes(b"\1")


@pytest.mark.parametrize(
    "damage, words",
    [
        (no_index, "has no a.ds.index beside it: write it with save_index=True"),
        (cut_short, "a.ds and a.ds.index do not belong together, or one was cut short"),
        (broken_index, "do not belong together"),
        (loss_mask, "a mask of what is learned in {path}.loss, which is not read"),
    ],
)
def test_an_incomplete_file_is_refused(
    damage: Callable, words: str, inline: None, command: Callable, tmp_path: Path
) -> None:
    path = write_ds(tmp_path / "a.ds", encoded(TEXTS))
    damage(path)
    code, _, err = command("--files", path, "--name", "web", "--kind", "text")
    assert code == 2 and err.count("\n") == 1 and words.format(path=path) in err


def test_another_tokenizer_is_refused(inline: None, command: Callable, tmp_path: Path) -> None:
    path = write_ds(tmp_path / "a.ds", encoded(TEXTS), tokenizer="openai/gpt2")
    flags = ("--files", path, "--name", "web", "--kind", "text", "--tokenizer")
    code, _, err = command(*flags, "bytes")
    assert code == 2 and err.count("\n") == 1
    assert "end with token 50,256, and the end-of-text token of the tokenizer is 256" in err
    assert "give --tokenizer the one that wrote it, openai/gpt2" in err
    assert command(*flags, "bpe")[0] == 2

    write_ds(path, encoded(TEXTS, eos=False))
    code, _, err = command(*flags, "bytes")
    assert code == 2 and "and the tokenizer has 257: give --tokenizer the one that wrote it, gpt2" in err
    assert not (tmp_path / "data" / "web").exists()


def test_token_files_are_texts_and_not_compressed(inline: None, command: Callable, tmp_path: Path) -> None:
    path = write_ds(tmp_path / "a.ds", [byte_level().encode(text) for text in TEXTS])
    code, _, err = command("--files", path, "--name", "web", "--kind", "instruct")
    assert code == 2 and "a .ds file has no rows of kind instruct" in err
    packed = path.rename(tmp_path / "a.ds.gz")
    code, _, err = command("--files", packed, "--name", "web", "--kind", "text")
    assert code == 2 and "or in .ds" in err

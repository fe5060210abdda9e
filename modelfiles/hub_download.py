"""Downloads of a model's files from the Hugging Face hub, resumed where they were cut off, and verified."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

from runtime.errors import UserError
from runtime.hub import checked_revision, checked_size, hub_errors, retry, valid_answers
from runtime.progress import Progress

PLAIN_NAME = re.compile(r"\w[\w .+-]*")
READ_BYTES = 1 << 20  # bytes of a file that are hashed at a time


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a revision; `sha256` is None for small files, which have only git's hash."""

    name: str
    url: str
    size: int
    sha256: str | None
    git_hash: str


def list_files(repo: str) -> tuple[str, dict[str, HubFile]]:
    """Return (revision, {name: file}) of a repository's top level as it is now."""
    with hub_errors(repo), valid_answers(repo):
        info = retry(lambda: huggingface_hub.HfApi().model_info(repo, files_metadata=True), repo)
        revision = checked_revision(info.sha)

        files = {}
        for entry in info.siblings:
            name = entry.rfilename
            if not PLAIN_NAME.fullmatch(name):
                continue  # it is in a subfolder, or outside
            url = huggingface_hub.hf_hub_url(repo, name, revision=revision)
            sha256 = entry.lfs.sha256 if entry.lfs else None
            files[name] = HubFile(name, url, checked_size(entry.size), sha256, entry.blob_id)
        return revision, files


def fetch(repo: str, file: HubFile, folder: Path) -> Path:
    """Download a file into a folder, resuming where an earlier attempt of any process ended. Return its path.

    Raises UserError when the network fails for good, or when the file twice does not match the hub's hash.
    """
    path = folder / file.name
    if path.is_file():
        return path

    partial = folder / f"{file.name}.part"
    partial.touch()
    _download(repo, file, partial)
    if _matches(partial, file):
        return partial.replace(path)

    # An earlier process may have left damaged bytes.
    print(f"{file.name} does not match the hub's hash: downloading it again", flush=True)
    partial.write_bytes(b"")
    _download(repo, file, partial)
    if _matches(partial, file):
        return partial.replace(path)

    partial.unlink()
    kind = "sha256" if file.sha256 else "hash"
    raise UserError(
        f"{file.name} of {repo} arrives damaged (its {kind} is not that of the hub): "
        "something between here and the hub changes files; try another network"
    )


def _download(repo: str, file: HubFile, partial: Path) -> None:
    """Append to a partial file until it has the size of the hub's file."""
    with hub_errors(repo), Progress(file.name, "B", file.size) as progress:
        while partial.stat().st_size < file.size:
            retry(lambda: _append(file, partial, progress), file.name)


def _append(file: HubFile, partial: Path, progress: Progress) -> None:
    """Append the bytes of one answer; it may break off after some bytes, since the next request resumes there."""
    start = partial.stat().st_size
    progress.go_to(start)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-"}

    with get_session().stream("GET", file.url, headers=headers) as response, partial.open("r+b") as output:
        hf_raise_for_status(response)
        is_partial = response.status_code == httpx.codes.PARTIAL_CONTENT
        output.truncate(start if is_partial else 0)  # a server without ranges sends the file from its start
        output.seek(0, os.SEEK_END)

        try:
            for chunk in response.iter_raw():  # of any size: bytes in a buffer would be lost at a break
                output.write(chunk)
                progress.update(len(chunk))
                if output.tell() > file.size:
                    return  # it is longer than announced: the hash decides
        except httpx.HTTPError:
            if output.tell() <= start:
                raise

        if output.tell() <= start:
            raise httpx.ReadError("the answer ended too early")


def _matches(path: Path, file: HubFile) -> bool:
    """Return True if a file has the size and the hash that the hub lists."""
    if path.stat().st_size != file.size:
        return False
    return file_hash(path, file) == (file.sha256 or file.git_hash)


def file_hash(path: Path, file: HubFile) -> str:
    """Return the sha256 of a large file, or the hash that git gives a small one: the kind that the hub lists."""
    if file.sha256:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % file.size)

    with path.open("rb") as data:
        while block := data.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()

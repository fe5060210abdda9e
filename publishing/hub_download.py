"""Files of a model's repository on the Hugging Face hub: fetched on from where they were cut off, and verified."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx
from tqdm import tqdm

from runtime.errors import UserError
from runtime.hub import hub_errors, retry


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a revision: where it is, how long, and its sha256 or, of small files, git's hash."""

    name: str
    url: str
    size: int
    sha256: str | None
    git: str


def repository(repo: str) -> tuple[str, dict[str, HubFile]]:
    """(revision, files by name) of what a repository holds now at its top level."""
    with hub_errors(repo):
        info = retry(lambda: huggingface_hub.HfApi().model_info(repo, files_metadata=True), repo)
    files = {
        entry.rfilename: HubFile(
            entry.rfilename,
            huggingface_hub.hf_hub_url(repo, entry.rfilename, revision=info.sha),
            entry.size,
            entry.lfs.sha256 if entry.lfs else None,
            entry.blob_id,
        )
        for entry in info.siblings
        if Path(entry.rfilename).name == entry.rfilename
    }
    return info.sha, files


def fetch(repo: str, file: HubFile, folder: Path) -> Path:
    """Bring a file into a folder, going on where an earlier attempt, of any process, ended. Returns its path.

    Raises UserError when the network fails for good, or the file is twice not what the hub says it is.
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.is_file():
        return path
    part.touch()
    for again in (False, True):  # what an earlier process left may be damaged
        if again:
            part.write_bytes(b"")
            print(f"{file.name} is not what the hub says it is: fetching it again", flush=True)
        with hub_errors(repo), tqdm(total=file.size, unit="B", unit_scale=True, desc=file.name) as bar:
            while (there := part.stat().st_size) < file.size:
                bar.n = there
                retry(lambda there=there, bar=bar: _go_on(file, part, there, bar), file.name)
        if part.stat().st_size == file.size and _digest(part, file) == (file.sha256 or file.git):
            return part.rename(path)
    part.unlink()
    raise UserError(
        f"{file.name} of {repo} arrives damaged (its {'sha256' if file.sha256 else 'hash'} is not that of "
        "the hub): something between here and the hub changes files; try another network"
    )


def _go_on(file: HubFile, part: Path, there: int, bar: tqdm) -> None:
    """Append what comes; a break after some of it is no error, since the next request goes on from there."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={there}-"}
    with get_session().stream("GET", file.url, headers=headers) as response, part.open("r+b") as output:
        hf_raise_for_status(response)
        output.truncate(there if response.status_code == httpx.codes.PARTIAL_CONTENT else 0)
        output.seek(0, os.SEEK_END)
        try:
            for chunk in response.iter_raw():  # of any size: what a buffer holds at a break is lost
                output.write(chunk)
                bar.update(len(chunk))
        except httpx.HTTPError:
            if output.tell() <= there:
                raise
        if output.tell() <= there:
            raise httpx.ReadError("the answer ended too early")


def _digest(path: Path, file: HubFile) -> str:
    """The hash of a file of the kind that the hub tells for it."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    with path.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

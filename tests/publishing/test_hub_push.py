"""Uploads to the hub: whose the repository is, private or not, and nothing half-made after a failure."""

from pathlib import Path

import pytest

from publishing.hub_push import check_license, push, repository
from runtime.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a model's files and one that is not to be uploaded."""
    for name in ("README.md", "config.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


NAMES = {"README.md", "config.json", "model.safetensors"}


def test_a_name_alone_belongs_to_who_is_logged_in(hub) -> None:
    assert repository("fox") == "someone/fox" and repository("others/fox") == "others/fox"
    assert not hub.models
    with pytest.raises(UserError, match="is not the name of a repository"):
        repository("a/b/c")


def test_without_a_login_nothing_is_made(hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError, match="hf auth login"):
        repository("someone/fox")
    assert not hub.models


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_if_asked(private: bool, folder: Path, hub) -> None:
    push(folder, "someone/fox", NAMES, private)
    assert hub.models["someone/fox"].keys() == {"README.md", "config.json"}
    assert hub.private["someone/fox"] is private

    (folder / "README.md").write_text("new")
    push(folder, "someone/fox", NAMES, not private)  # it exists: it stays what it is
    assert hub.models["someone/fox"]["README.md"] == b"new" and hub.private["someone/fox"] is private


def test_a_failed_upload_leaves_no_new_repository(folder: Path, hub) -> None:
    hub.fault("/preupload/main", times=9, status=403)
    with pytest.raises(UserError, match="it answered 403"):
        push(folder, "someone/fox", NAMES, False)
    assert not hub.models

    hub.models["someone/fox"] = {"README.md": b"old"}
    hub.faults.clear()
    hub.fault("/preupload/main", times=9, status=403)
    with pytest.raises(UserError, match="it answered 403"):
        push(folder, "someone/fox", NAMES, False)
    assert hub.models["someone/fox"] == {"README.md": b"old"}


def test_a_model_is_not_published_without_a_licence() -> None:
    check_license(None, None)
    check_license("mit", "someone/fox")
    with pytest.raises(UserError, match="--push_to_hub someone/fox needs --license ID"):
        check_license(None, "someone/fox")

"""Upload of an exported folder to the Hugging Face hub: all of it in one commit, or nothing."""

from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import HfHubHTTPError

from runtime.errors import UserError
from runtime.hub import hub_errors, retry

CONFLICT = 409  # the answer where a repository exists already


def repository(name: str) -> str:
    """Return the full name of a repository to write to: OWNER/NAME, where a NAME alone belongs to who is logged in.

    Raises UserError where nobody is, or where the name is none. Nothing is made on the hub.
    """
    with hub_errors(name):
        huggingface_hub.utils.validate_repo_id(name)
        if not huggingface_hub.get_token():
            raise UserError(f"--push_to_hub {name} needs to know who you are: log in with `hf auth login`")
        user = retry(lambda: huggingface_hub.HfApi().whoami(), name)
    return name if "/" in name else f"{user['name']}/{name}"


def push(folder: Path, repo: str, names: Iterable[str], private: bool) -> None:
    """Upload files of a folder in one commit; a repository that was made for it is removed if that fails.

    `private` is for a new repository; one that exists stays what it is. Raises UserError when the hub refuses.
    """

    def upload() -> None:
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=sorted(names),
            commit_message="Export from SmolLlama",
        )

    with hub_errors(repo) as endpoint:
        api = huggingface_hub.HfApi()
        is_new = retry(lambda: _create(api, repo, private), repo)
        try:
            retry(upload, repo)
        except BaseException:
            if is_new:
                retry(lambda: api.delete_repo(repo, missing_ok=True), repo)
            raise
        print(f"uploaded to {endpoint}/{repo}", flush=True)


def _create(api: huggingface_hub.HfApi, repo: str, private: bool) -> bool:
    """Make a repository. Return False if it exists already."""
    try:
        api.create_repo(repo, private=private)
    except HfHubHTTPError as error:
        if error.response.status_code != CONFLICT:
            raise
        return False
    return True


def check_license(license_id: str | None, repo: str | None) -> None:
    """Raise UserError for a model that is to be published without a licence."""
    if repo and not license_id:
        raise UserError(
            f"--push_to_hub {repo} needs --license ID, such as mit or apache-2.0: without one nobody may use the model"
        )

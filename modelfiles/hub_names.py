"""Names of models on the Hugging Face hub, and how they differ from folders of this machine."""

import re
from pathlib import Path

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # OWNER/NAME


def is_hub_name(name: str, models_dir: str | Path) -> bool:
    """Return True if a name is that of a repository on the hub.

    A folder of this machine comes first; so does one that is not there, in a folder that is: it is mistyped.
    """
    path = Path(name)
    is_local = path.exists() or path.parent.is_dir() or path.parent == Path(models_dir)
    return not is_local and HUB_NAME.fullmatch(name) is not None

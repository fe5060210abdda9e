"""README, docs and CONTRIBUTING: their paths and the commands in them."""

import re

from toy import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_blocks(text: str) -> str:
    """Return the contents of all bash blocks, continued lines joined."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")

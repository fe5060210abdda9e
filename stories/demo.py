"""Demonstration of a model of the story world: five prompts that it can answer, with the replies that it writes.

python -m stories.demo --model checkpoints/D-stories_preference
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors")

import textwrap

from checkpoint import find_model
from config import Parser, resolve
from generation.chat import load_chat_model
from runtime import distributed
from runtime.errors import run_cli
from stories.evaluate import STORY_TOKENS

PROMPTS = (
    "Tell a bedtime story about Leo and a boat.",
    "Tell me a story about Tom and a bell.",
    "What is the opposite of wet?",
    "Anna has two hats and gets three more. How many hats is that?",
    "Which of these are animals: bear, soup, duck and hat?",
)
SCOPE = (
    "This small world knows short stories about a character and an object, questions about such a story, "
    "opposites, sums up to six and lists of its own words. To anything else it answers nonsense."
)
WIDTH = 100  # characters of a line


def demonstrate(model_name: str, device: str, dtype: str | None) -> str:
    """Return PROMPTS with the replies of a model; greedy, so that the same command writes the same text again."""
    env = distributed.init(device, dtype)
    chat_model = load_chat_model(find_model(model_name))
    chat_model.model.to(env.device)
    args = resolve({"temperature": 0.0, "max_length": STORY_TOKENS})

    lines = []
    for prompt in PROMPTS:
        built = chat_model.build_prompt([{"role": "user", "content": prompt}], args.max_length)
        with env.autocast():
            reply = "".join(piece.text for piece in chat_model.stream_reply(built, args))

        lines.append(f"> {prompt}")
        for paragraph in reply.strip().split("\n\n"):
            lines += textwrap.wrap(paragraph, WIDTH)
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(SCOPE, WIDTH)])


def main() -> None:
    """Print the demonstration."""
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="run folder or step folder")
    parser.add_settings({"device"})
    flags = vars(parser.parse_args())
    args = resolve(flags)
    print(demonstrate(flags["model"], args.device, args.dtype))


if __name__ == "__main__":
    run_cli(main)

"""Train a byte-level BPE on files of any format that data.py reads, and save it as a Hugging Face folder.

    python tokenizer.py --files corpus.txt more.jsonl.gz --vocab_size 4096 --to my_tokenizer
    python tokenizer.py --files chats.jsonl --kind instruct --to my_tokenizer

It learns the texts, or the conversations as the prompt template renders them, as `data.py --tokenizer bpe` does.
"""

import tempfile
from pathlib import Path

from config import Parser
from dataprep.forms import KINDS
from dataprep.inputs import find_inputs
from dataprep.registry import file_source
from dataprep.row_flags import add_row_flags, row_options
from dataprep.trained_tokenizer import MIN_SIZE, train
from runtime.errors import UserError
from runtime.files import writing

MAX_SIZE = 2**31


def main() -> None:
    """Train a tokenizer and save it."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--files", nargs="+", required=True, help="files, folders, globs or -, as for data.py"
    )
    parser.add_argument("--kind", choices=KINDS, default="text", help="what the rows are (default: text)")
    add_row_flags(parser)
    parser.add_argument("--vocab_size", type=int, default=4096, help="tokens, 257 or more (default: 4096)")
    parser.add_argument("--to", required=True, help="folder to write")
    args = parser.parse_args()
    if not MIN_SIZE <= args.vocab_size <= MAX_SIZE:
        raise UserError(
            f"--vocab_size {args.vocab_size} must lie between {MIN_SIZE} (256 bytes and the end-of-text token) and "
            f"{MAX_SIZE}"
        )

    options = row_options(parser, args)
    with tempfile.TemporaryDirectory() as copies:
        inputs = find_inputs(args.files, args.kind, Path(copies) / "input")
        source = file_source("tokenizer", args.kind, inputs)
        tokenizer = train(f"bpe:{args.vocab_size}", source.ranges, args.kind, 0.0, options)

    folder = Path(args.to)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
    print(f"{tokenizer.vocab_size} tokens in {args.to}")

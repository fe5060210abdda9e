"""What users mistype to data.py and tokenizer.py: flags, names, files, tokenizers, and rows."""

from bad_rows import BAD_ROWS
from mistakes import Mistake

FLAGS = [
    ("data.py", "one of the arguments --stories --tinystories --fw"),
    ("data.py --stories --alpaca", "argument --alpaca: not allowed with argument --stories"),
    (
        "data.py --file book.txt --name x",
        "--file is no flag of data.py: did you mean --files or --val_files?",
    ),
    ("data.py -files book.txt --name x", "-files is no flag of data.py: did you mean --files"),
    ("data.py --files book.txt --name x --tokenizr gpt2", "did you mean --tokenizer?"),
    ("data.py --files book.txt --name x --seed 5", "--seed is no flag of data.py"),
    ("data.py --files --name x", "argument --files: expected at least one argument"),
    ("data.py --files book.txt", "--files needs --name NAME"),
    ("data.py --files book.txt --name ''", "--name is empty: give a value, or drop the flag"),
    ("data.py --files book.txt --name=", "--name is empty: give a value, or drop the flag"),
    ("data.py --files '' --name x", "--files is empty: give a value, or drop the flag"),
    ("data.py --files book.txt --name x y", "'y' belongs to no flag"),
    ("data.py --files book.txt --name x --update yes", "--update takes no value: drop 'yes'"),
    ("data.py --files book.txt --name ../x", "--name ../x must be a plain folder name, such as x;"),
    ("data.py --files book.txt --name /data/x", "--name /data/x must be a plain folder name, such as x;"),
    ("data.py --files book.txt --name .x", "--name .x must be a plain folder name, such as x;"),
    ("data.py --files book.txt --name ..", "--name .. must be a plain folder name, such as mine;"),
    ("data.py --files book.txt --name ' '", "--name ' ' must be a plain folder name, such as mine;"),
    ("data.py --files book.txt --name 'toy '", "must be a plain folder name, such as toy;"),
    ("data.py --files book.txt --name 'a\\nb/c'", "must be a plain folder name, such as c;"),
    ("data.py --stories --name x", "--name goes with --files, --hub or one dataset of the hub"),
    ("data.py --files book.txt --name x --kind chat", "argument --kind: invalid choice: 'chat'"),
    (
        "data.py --stories --kind instruct",
        "--kind goes with --files or --hub",
        "dataprep/flag_checks.py check_flags",
    ),
    (
        "data.py --files book.txt --name x --hub_config c",
        "--hub_config goes with --hub",
        "dataprep/flag_checks.py check_flags",
    ),
    ("data.py --files book.txt --name x --val_split v", "--val_split goes with --hub"),
    ("data.py --files book.txt --name x --revision main", "--revision goes with --hub"),
    ("data.py --files book.txt --name x --split train", "--split goes with --hub or --show"),
    ("data.py --alpaca --val_files book.txt", "--val_files goes with --files"),
    ("data.py --files book.txt --name x --row 3", "--row goes with --show"),
    ("data.py --files book.txt --name x --block_size 32", "--block_size goes with --show"),
    (
        "data.py --stories --rename body=text",
        "--rename says how rows of files or of the hub are read: drop it",
    ),
    ("data.py --stories --skip_bad_rows", "--skip_bad_rows says how rows of files or of the hub are read"),
    ("data.py --stories --tokenizer bpe", "--tokenizer bpe is what --stories does anyway: drop it"),
    (
        "data.py --files book.txt --name x --rename body",
        "--rename body must be like OLD=NEW: --rename body=text",
    ),
    ("data.py --files book.txt --name x --rename =text", "--rename =text must be like OLD=NEW"),
    (
        "data.py --files book.txt --name x --rename body=txt",
        "--rename body=txt: 'txt' is not read; names that are: answer,",
    ),
    (
        "data.py --files book.txt --name x --val_fraction 1",
        "--val_fraction 1.0 must be 0 or more and below 1",
    ),
    (
        "data.py --files book.txt --name x --val_fraction -0.1",
        "--val_fraction -0.1 must be 0 or more and below 1",
    ),
    (
        "data.py --files book.txt --name x --val_fraction -1e-1",
        "--val_fraction -0.1 must be 0 or more and below 1",
    ),
    (
        "data.py --files book.txt --name x --val_fraction nan",
        "--val_fraction nan must be 0 or more and below 1",
    ),
    (
        "data.py --files book.txt --name x --val_fraction 10%",
        "--val_fraction: '10%' is not a number, such as 0.1",
    ),
    (
        "data.py --files book.txt --name x --val_files a.txt --val_fraction 0.1",
        "--val_files is the validation set, so",
    ),
    (
        "data.py --hub a/b --val_split test --val_fraction 0.1",
        "--val_split is the validation set, so --val_fraction",
    ),
    ("data.py --files book.txt --name x --max_tokens 0", "--max_tokens 0 must be 1 or more"),
    (
        "data.py --files book.txt --name x --max_tokens 1M",
        "--max_tokens: '1M' is not an integer, such as 1000",
    ),
    (
        "data.py --files book.txt --name x --max_tokens 1e6",
        "--max_tokens: '1e6' is not an integer, such as 1000",
    ),
    (
        "data.py --files book.txt --name x --max_tokens 1.000.000",
        "'1.000.000' is not an integer, such as 1000",
    ),
    ("data.py --files book.txt --name x --num_proc -2", "--num_proc -2 must be 1 or more"),
    ("data.py --files book.txt --name x --num_proc all", "--num_proc: 'all' is not an integer, such as 1000"),
    ("data.py --files book.txt --name x --shard 9/8", "--shard 9/8 must be like 2/8: the second of eight"),
    ("data.py --files book.txt --name x --shard 2of8", "--shard 2of8 must be like 2/8: the second of eight"),
    ("data.py --files book.txt --name x --shard 2/8 --max_tokens 9", "so it does not go with --shard"),
    (
        "data.py --files rows/body.jsonl --name x --template chatml",
        "argument --template: invalid choice: 'chatml'",
    ),
    ("data.py --files book.txt --name x --data_dir book.txt", "cannot write to ", "data.py main"),
]
SHOW = [
    ("data.py --show nosuch", "no prepared dataset in data/nosuch (there are: "),
    ("data.py --show toy --data_dir nowhere", "no prepared dataset in nowhere/toy (none is prepared yet)"),
    ("data.py --show data/toy", "--show data/toy must be a plain folder name, such as toy;"),
    ("data.py --show {tmp}/data/toy", "--show {tmp}/data/toy must be a plain folder name, such as toy;"),
    (
        "data.py --dpo --val_fraction 0.3",
        "--dpo brings its own validation set: --val_fraction can only be 0, for none",
    ),
    (
        f"data.py --files book.txt --name {'x' * 300}",
        "--name is longer than 200 bytes",
        "dataprep/flag_checks.py check_flags",
    ),
    ("data.py --show toy --row 0", "--row 0 must be 1 or more", "dataprep/flag_checks.py check_flags"),
    ("data.py --show toy --row -1", "--row -1 must be 1 or more"),
    ("data.py --show toy --row first", "--row: 'first' is not an integer"),
    (
        "data.py --show toy --row 100000",
        "--row 100000: the train set of data/toy has 600 rows: choose a smaller number",
    ),
    ("data.py --show pairs --row 601", "the train set of data/pairs has 600 rows"),
    (
        "data.py --show without-val --split val",
        "the val set of data/without-val is empty: show the other one with --split",
    ),
    ("data.py --show toy --split test", "--split test: a prepared dataset has train and val"),
    ("data.py --show toy --block_size 0", "--block_size 0 must be 1 or more"),
    (
        "data.py --show toy --tokenizer gpt2",
        "--tokenizer changes nothing of what --show prints",
    ),
    ("data.py --show toy --val_fraction 0", "--val_fraction changes nothing of what --show prints"),
    ("data.py --show toy --update", "--update changes nothing of what --show prints"),
    ("data.py --show toy --ignore tools", "--ignore says how rows of files or of the hub are read: drop it"),
    ("data.py --show toy --name x", "--name goes with --files"),
    (
        "data.py --show cut",
        "data/cut/train-00000.tokens.bin is missing or was cut short: prepare the dataset again",
    ),
    ("data.py --show format9", "data/format9/meta.json is not of format 1: prepare the dataset again"),
    ("data.py --show broken", "data/broken/meta.json is "),
]
FILES = [
    ("data.py --files nowhere.txt --name x", "no such file or folder: nowhere.txt"),
    ("data.py --files book.txt nowhere.txt --name x", "no such file or folder: nowhere.txt"),
    ("data.py --files 'folders/*.txt' --name x", "no such file or folder: folders/*.txt"),
    ("data.py --files bücher.txt --name x", "no such file or folder: bücher.txt"),
    ("data.py --files C:\\\\texts\\\\book.txt --name x", "no such file or folder: C:\\texts\\book.txt"),
    ("data.py --files book.txt --val_files nowhere.txt --name x", "no such file or folder: nowhere.txt"),
    ("data.py --files empty.txt --name x", "empty.txt is empty", "dataprep/ranges.py"),
    (
        "data.py --files rows/body.jsonl --name x",
        "; 1 bad row in this part of the data: correct the data, or --skip_bad_rows",
    ),
    ("data.py --files book.txt --val_files empty.txt --name x", "empty.txt is empty", "dataprep/ranges.py"),
    ("data.py --files blank.jsonl --name x", "x: too little text: 0 tokens to train on; give more text"),
    ("data.py --files notes.pdf --name x", "notes.pdf: a file must end in .txt, .md, .jsonl"),
    ("data.py --files noending --name x", "noending: a file must end in .txt, .md, .jsonl"),
    (
        "data.py --files folders/empty --name x",
        "folders/empty holds no file with rows of kind text (1 .keep): they end in",
    ),
    (
        "data.py --files folders/pictures --name x",
        "folders/pictures holds no file with rows of kind text (2 .png)",
    ),
    (
        "data.py --files book.txt --name x --kind instruct",
        "book.txt: a .txt file has no rows of kind instruct: give .jsonl",
    ),
    Mistake("data.py --files - --name x", "--files - reads what is piped in, and nothing is: use cat FILE |"),
    Mistake("data.py --files - --name x", "-: nothing came through the pipe", stdin=""),
    Mistake(
        "data.py --files - --name x --kind instruct",
        "a pipe of plain text has no rows of kind instruct: give .jsonl",
        stdin="once upon a time",
    ),
    (
        "data.py --files latin1.txt --name x",
        "latin1.txt is not UTF-8 text (byte 7): convert it first, from Latin-1 with: iconv",
    ),
    (
        "data.py --files latin1.jsonl --name x",
        "latin1.jsonl is not UTF-8 text: convert it first, from Latin-1",
    ),
    ("data.py --files latin1.csv --name x", "latin1.csv is not UTF-8 text: convert it first, from Latin-1"),
    ("data.py --files latin1-array.json --name x", "latin1-array.json is not UTF-8 text: convert it first"),
    ("data.py --files latin1.parquet --name x", "latin1.parquet rows 1 to 1: text that is not UTF-8"),
    (
        "data.py --files utf16.txt --name x",
        "utf16.txt is UTF-16 text, not UTF-8: convert it first: iconv -f UTF-16",
    ),
    ("data.py --files utf16-unmarked.txt --name x", "utf16-unmarked.txt is UTF-16LE text, not UTF-8"),
    ("data.py --files fields.csv --name x", "fields.csv row 2 has 1 fields, but the first line 2"),
    ("data.py --files quotes.csv --name x", "quotes.csv row 1 is not CSV: "),
    (
        "data.py --files columns.csv --name x",
        "columns.csv has no column text or content; it has body, b: --rename COLUMN=text",
    ),
    (
        "data.py --files columns.parquet --name x",
        "columns.parquet has no column text or content; it has body",
    ),
    (
        "data.py --files missing-bracket.json --name x",
        "missing-bracket.json is not JSON: ',' or ']' is missing (line 4)",
        "dataprep/json_stream.py",
    ),
    (
        "data.py --files missing-comma.json --name x",
        "missing-comma.json is not JSON: ',' or ']' is missing (line 3)",
    ),
    (
        "data.py --files more-after.json --name x",
        "more-after.json is not JSON: more follows after the array (line 4)",
    ),
    (
        "data.py --files deep.json --name x",
        "deep.json is not JSON: too many brackets inside each other (line 2)",
    ),
    (
        "data.py --files cut.parquet --name x",
        "cut.parquet is not a complete Parquet file: ",
        "dataprep/ranges.py",
    ),
    ("data.py --files cut.arrow --name x", "cut.arrow is not a complete Arrow file: "),
    ("data.py --files cut.txt.gz --name x", "cannot read cut.txt.gz: "),
    ("data.py --files not-gzip.parquet.gz --name x", "not-gzip.parquet.gz cannot be decompressed ("),
    (
        "data.py --files tokens/no-index.ds --name x",
        "has no no-index.ds.index beside it: write it with save_index",
    ),
    ("data.py --files tokens/with-loss.ds --name x", "tokens/with-loss.ds has a mask of what is learned in"),
    (
        "data.py --files tokens/cut-short.ds --name x",
        "do not belong together, or one was cut short: copy both again",
    ),
    (
        "data.py --files tokens/too-large.ds --name x",
        "tokens/too-large.ds holds token 60,000, and the tokenizer has 257",
    ),
    (
        "data.py --files tokens/other-end.ds --name x",
        "end with token 0, and the end-of-text token of the tokenizer is 256",
    ),
    (
        "data.py --files book.txt --name notes",
        "data/notes exists and is not a prepared dataset, and would be replaced",
    ),
    (
        "data.py --files book.txt --name a-file",
        "data/a-file exists and is not a prepared dataset, and would be",
    ),
    (
        "data.py --files data/toy/meta.json --name toy",
        "data/toy holds data/toy/meta.json, and would be replaced",
    ),
    ("data.py --files book.txt --name toy", "data/toy is already prepared, with other settings (--kind,"),
    (
        "data.py --files book.txt --name half",
        "data/.half.partial holds finished work of a run with other settings (",
    ),
    (
        "data.py --files book.txt --name shares",
        "data/.shares.shard-1-of-2 was prepared with other settings (sources,",
    ),
    (
        "data.py --files book.txt --name shared",
        "is damaged, so unit-00000 is not usable: copy the folder again",
    ),
]
TOKENIZERS = [
    (
        "data.py --files book.txt --name x --tokenizer gpt3",
        "no tokenizer in gpt3 (tokenizer.json is missing): use gpt2, bytes",
    ),
    (
        "data.py --files book.txt --name x --tokenizer data/toy",
        "no tokenizer in data/toy (tokenizer.json is missing)",
    ),
    (
        "data.py --files book.txt --name x --tokenizer bpe:10",
        "--tokenizer bpe:10 needs a number of tokens from 257 on",
    ),
    (
        "data.py --files book.txt --name x --tokenizer bpe:4k",
        "--tokenizer bpe:4k needs a number of tokens from 257 on",
    ),
    ("data.py --files blank.jsonl --name x --tokenizer bpe", "--tokenizer bpe has no text to be trained on"),
    (
        "data.py --files book.txt --name x --tokenizer tokenizers/broken",
        "tokenizers/broken cannot be read as a tokenizer (",
    ),
    (
        "data.py --files book.txt --name x --tokenizer tokenizers/no-end",
        "tokenizers/no-end has no end-of-text token: name",
    ),
    (
        "data.py --files book.txt --name x --tokenizer tokenizers/unknown-end",
        "has no end-of-text token '<end>': name one of",
    ),
    (
        "data.py --files book.txt --name x --tokenizer tokenizers/no-unknown",
        "cannot encode a text (",
        "tokenizer.py",
    ),
    (
        "data.py --files book.txt --name x --tokenizer tokenizers/knows-a",
        "cannot encode a text (",
        "dataprep/round_trip.py",
    ),
    (
        "data.py --files book.txt --name x --tokenizer tokenizers/loses",
        "--tokenizer tokenizers/loses cannot write line ends: ",
    ),
    (
        "data.py --files book.txt --name x --tokenizer data/toy/tokenizer --template own",
        "has no chat template of its own: drop",
    ),
    *(
        (
            f"data.py --files rows/no-answer.jsonl --kind instruct --name x --tokenizer tokenizers/{name}",
            words,
        )
        for name, words in (
            (
                "endless",
                "the chat template of the tokenizer ends no response with a special token, so a reply would not",
            ),
            ("rewrites", "the chat template renders turn 2 otherwise when it is followed by another"),
            ("no-jinja", "the chat template refuses the conversation (Expected an expression"),
            (
                "divides",
                "the chat template refuses the conversation (division by zero): --template smolllama takes",
            ),
            ("silent", "the chat template does not show the user turn as it is"),
            ("miscounts", "the chat template marks 1 responses in a conversation of 2"),
        )
    ),
    (
        "data.py --files systems.jsonl --kind instruct --name x --tokenizer tokenizers/refuses-system",
        "systems.jsonl row 1: the chat template refuses the conversation (System role not supported): --template",
    ),
    ("tokenizer.py", "the following arguments are required: --files, --to"),
    ("tokenizer.py --files nowhere.txt --to t", "no such file or folder: nowhere.txt"),
    (
        "tokenizer.py --files book.txt --to t --vocab_size 10",
        "--vocab_size 10 must lie between 257 (256 bytes and the",
    ),
    (
        "tokenizer.py --files book.txt --to t --vocab_size 4k",
        "--vocab_size: '4k' is not an integer, such as 1000",
    ),
    ("tokenizer.py --files book.txt --to t --kind chat", "argument --kind: invalid choice: 'chat'"),
    (
        "tokenizer.py --files rows/body.jsonl --to t",
        "rows/body.jsonl row 2 has no column 'text'; it has 'body'",
    ),
    ("tokenizer.py --files book.txt --to ''", "--to is empty: give a value, or drop the flag"),
    ("tokenizer.py --files book.txt --too t", "did you mean --to?"),
]
ROWS = [
    Mistake(
        f"data.py --files rows/{name}.jsonl --kind {kind} --name x",
        words.strip(),
        begins=f"error: rows/{name}.jsonl row 2",
    )
    for name, (kind, _, words) in BAD_ROWS.items()
]
TABLE = [*FLAGS, *SHOW, *FILES, *TOKENIZERS, *ROWS]

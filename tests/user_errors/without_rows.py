"""Messages that no row makes: by no command line of one machine alone, or not told apart from others by their words.

(file and function of the message, words that its test looks for, the test's file)
"""

HUB = "tests/runtime/test_hub.py"
SPLITS = "tests/dataprep/test_hub_splits.py"
CHAT = "tests/generation/test_conversation.py"

# What the hub answers, and what does not belong to it.
OF_THE_HUB = [
    ("runtime/hub.py valid_answers", "sends what no hub sends about", HUB),
    ("runtime/hub.py hub_errors", "is gated: accept its terms at", HUB),
    ("runtime/hub.py hub_errors", "or it is private", HUB),
    ("runtime/hub.py hub_errors", "has no such revision on the hub", HUB),
    ("runtime/hub.py hub_errors", "is needed from the hub, but HF_HUB_OFFLINE is set", HUB),
    ("runtime/hub.py hub_errors", "is no address of a hub", HUB),
    ("runtime/hub.py hub_errors", "sent no complete answer about", HUB),
    ("runtime/hub.py hub_errors", "answered 500 Internal Server Error", HUB),
    ("modelfiles/hub_download.py fetch", "arrives damaged", "tests/modelfiles/test_hub_download.py"),
    ("modelfiles/hub_models.py model_files", "has no weights", "tests/modelfiles/test_hub_models.py"),
    ("download_model_weight.py snapshot_of", '"neither"', "tests/test_download_model_weight.py"),
    ("download_model_weight.py snapshot_of", "add --model_type", "tests/test_download_model_weight.py"),
    ("dataprep/hub_splits.py split_files", "has several configs", SPLITS),
    ("dataprep/hub_splits.py split_files", "no config fr: --hub_config is one of", SPLITS),
    ("dataprep/hub_splits.py split_files", "no files that can be read as they are", SPLITS),
    ("dataprep/hub_splits.py _check_options", "which data.py has no flag for", SPLITS),
    ("dataprep/sources.py _files_of_choice", "no split dev: --split is one of", SPLITS),
    ("dataprep/sources.py _files_of_choice", "which data.py does not read", SPLITS),
    ("dataprep/sources.py _hub_files", "any more", "tests/dataprep/test_sources.py"),
    (
        "dataprep/sources.py _hub_file_ranges",
        "is not a complete Parquet file",
        "tests/dataprep/test_sources.py",
    ),
    ("dataprep/sources.py hub_ranges", "the hub sent no complete answer", "tests/dataprep/test_sources.py"),
    ("dataprep/worker.py prepare_unit", "failed after all retries", "tests/dataprep/test_worker.py"),
]
# What is said inside a chat or on the page, which go on.
IN_A_CONVERSATION = [
    ("generation/chat.py encode", "drop the system turn", "tests/test_guests.py"),
    ("generation/conversation.py _regenerate", "/regen needs a reply to replace", CHAT),
    ("generation/conversation.py _change_model", "/model needs a name", CHAT),
    ("generation/conversation.py _save", "needs the name of a new file", CHAT),
    ("generation/conversation.py _save", "/save has no conversation to write", CHAT),
    ("generation/conversation.py _save", "/save {file}: No such file", CHAT),
    ("generation/conversation.py _load", "needs a file that /save wrote", CHAT),
    ("generation/conversation.py take", "is no command", CHAT),
    ("gradio/compare_tab.py _random_order", "There is one model only", "tests/page/test_compare_tab.py"),
    ("gradio/compare_tab.py _random_order", "two to four models", "tests/page/test_compare_tab.py"),
    ("gradio/look_tab.py _stream_branch", "no such token", "tests/page/test_look_tab.py"),
    ("gradio/replies.py _stream", "that its model does not have", "tests/page/test_replies.py"),
    ("gradio/replies.py _stream", "tokens is full", "tests/page/test_replies.py"),
    ("gradio/waiting.py wait_then", "others are waiting", "tests/page/test_waiting.py"),
    ("gradio/replies.py check_prompt", "The text is empty", "tests/page/test_chat_tab.py"),
    ("gradio/replies.py check_prompt", "the limit is 8,000", "tests/page/test_replies.py"),
]
# What another machine, another installation or another process is needed for.
ELSEWHERE = [
    ("config.py world_size", "no number of ranks", "tests/test_config.py"),
    ("runtime/launcher.py check_launch_variables", "but not {name}", "tests/runtime/test_launcher.py"),
    ("runtime/launcher.py check_launch_variables", '("RANK", "first")', "tests/runtime/test_launcher.py"),
    ("runtime/launcher.py check_launch_variables", '("RANK", "2")', "tests/runtime/test_launcher.py"),
    ("training/tracker.py check_tracker", "pip install {TRACKIO}", "tests/training/test_tracker.py"),
    ("runtime/files.py folder_lock", "another process is at work in", "tests/runtime/test_files.py"),
    (
        "dataprep/prepare.py _prepare_units",
        "a worker process was killed",
        "tests/dataprep/test_prepare_processes.py",
    ),
    ("dataprep/ranges.py local_ranges", "no such file: ", "tests/dataprep/test_readers.py"),
    (
        "dataprep/round_trip.py check_tokenizer",
        "reads the letters </s> in a text",
        "tests/dataprep/test_round_trip.py",
    ),
    ("tokenizer.py gpt2", "is not GPT-2's vocabulary", "tests/test_tokenizer.py"),
    ("training/compilation.py compile_if_faster", "--no-compile", "tests/training/test_compilation.py"),
    ("training/lora.py check_settings", "pip install peft", "tests/training/test_lora.py"),
]
WEIGHTS = "tests/modelfiles/test_weights.py"
# Files of strangers that rows would have to make byte by byte.
OF_STRANGERS = [
    ("modelfiles/weights.py _files_of_index", '"a": "../b.safetensors"', WEIGHTS),
    ("modelfiles/weights.py check_sizes", "config.json: it describes", WEIGHTS),
    ("modelfiles/weights.py check_sizes", "config.json has max_position_embeddings", WEIGHTS),
    ("modelfiles/weights.py check_sizes", "GB of memory in float32", WEIGHTS),
    ("modelfiles/weights.py _read_matching", ", which another file", WEIGHTS),
    ("modelfiles/weights.py _read_matching", "quantized or no weights", WEIGHTS),
    ("dataprep/readers.py _batch_rows", "a.parquet rows 257 to 301", "tests/dataprep/test_readers.py"),
    ("dataprep/shards.py read_meta", "prepare the dataset again", "tests/dataprep/test_shards.py"),
    (
        "publishing/published_weights.py convert",
        "no code in it was run",
        "tests/publishing/test_published_weights.py",
    ),
    ("runtime/files.py read_json", "is broken", "tests/runtime/test_files.py"),
    ("runtime/files.py writing", "cannot write to", "tests/runtime/test_files.py"),
]
# Rows that are counted, and stop no command.
COUNTED = [
    ("dataprep/conversations.py text", "kind", "tests/dataprep/test_left_out.py"),
    ("dataprep/conversations.py _check_marks", "MarkedBad", "tests/dataprep/test_conversations.py"),
]
# Messages whose few words are those of others as well; their rows are in the tables.
SHARED_WORDS = [
    ("config.py _validation_errors", "--beta 0 must be above 0", "tests/user_errors/training_mistakes.py"),
    ("config.py _field_errors", "--max_lr 0.0 must be above 0", "tests/user_errors/training_mistakes.py"),
    ("runtime/command_line.py read", "such as 1000, nor auto", "tests/user_errors/training_mistakes.py"),
    (
        "runtime/command_line.py read",
        "is not a number, such as 0.1",
        "tests/user_errors/training_mistakes.py",
    ),
    ("dataprep/forms.py find_form", "has no column 'text'; it has 'body'", "tests/helpers/bad_rows.py"),
    ("dataprep/readers.py _jsonl_rows", "is not JSON: Expecting value", "tests/helpers/bad_rows.py"),
    ("dataprep/readers.py _table_rows", "quotes.csv row 1 is not CSV", "tests/user_errors/data_mistakes.py"),
    (
        "dataprep/shards.py check_replaceable",
        "data/toy holds data/toy/meta.json",
        "tests/user_errors/data_mistakes.py",
    ),
    ("dataprep/turns.py read_messages", "column 'messages' is not JSON", "tests/helpers/bad_rows.py"),
    (
        "dataprep/turns.py refuse_unread",
        "has 'tools', which the prompt template has no room",
        "tests/helpers/bad_rows.py",
    ),
]
WITHOUT_ROWS = [*OF_THE_HUB, *OF_STRANGERS, *IN_A_CONVERSATION, *ELSEWHERE, *COUNTED, *SHARED_WORDS]

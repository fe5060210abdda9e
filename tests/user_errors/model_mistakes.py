"""What users mistype to the scripts that use a model, and to those that get, check and publish one."""

from mistakes import Mistake

EVALUATION = [
    ("evaluation.py", "the following arguments are required: --model"),
    (
        "evaluation.py --model checkpoints/P-toy",
        "nothing to evaluate: give --dataset NAME, --suite or --lm_eval TASKS",
    ),
    ("evaluation.py --model --dataset toy", "argument --model: expected at least one argument"),
    ("evaluation.py --model '' --dataset toy", "--model is empty: give a value, or drop the flag"),
    (
        "evaluation.py --models checkpoints/P-toy --dataset toy",
        "--models is no flag of evaluation.py: did you mean --model?",
    ),
    ("evaluation.py --model nosuch --dataset toy", "no model in nosuch: give a run folder, a step folder"),
    ("evaluation.py --model checkpoints/P-toy nosuch --dataset toy", "no model in nosuch: give a run folder"),
    (
        "evaluation.py --model data/toy/meta.json --dataset toy",
        "no model in data/toy/meta.json: give a run folder",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --dataset nosuch",
        "no prepared dataset in data/nosuch (there are: ",
    ),
    ("evaluation.py --model checkpoints/P-toy --dataset .", "give --dataset NAME --data_dir ."),
    ("evaluation.py --model checkpoints/P-toy --dataset old/toy", "give --dataset toy --data_dir old"),
    ("evaluation.py --model checkpoints/P-toy --dataset toy,chat", "no prepared dataset in data/toy,chat"),
    (
        "evaluation.py --model checkpoints/P-toy --dataset without-val",
        "data/without-val has no validation set to evaluate on",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --dataset one-token",
        "holds 1 tokens, too few for one label: prepare more",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --dataset other",
        "data/other was prepared with another tokenizer than the model's",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --dataset cut-val",
        "val-00000.tokens.bin is missing or was cut short",
    ),
    ("evaluation.py --model checkpoints/P-toy --dataset toy --batch_size 0", "--batch_size 0 is below 1"),
    ("evaluation.py --model checkpoints/P-toy --dataset toy --block_size 1", "--block_size 1 is below 2"),
    (
        "evaluation.py --model checkpoints/S-chat --dataset late",
        "differs within --block_size 96 + 1 tokens",
    ),
    ("evaluation.py --model checkpoints/P-toy --suite --samples -1", "--samples -1 must be 0 or more"),
    ("evaluation.py --model checkpoints/P-toy --suite --samples all", "--samples: 'all' is not an integer"),
    (
        "evaluation.py --model checkpoints/P-toy --suite",
        "tokens, and the model's context holds 96: evaluate a model with a",
    ),
    (
        "evaluation.py --model checkpoints/D-pairs --dataset pairs --beta 0",
        "--beta 0 must be above 0",
        "evaluation.py",
    ),
    ("evaluation.py --model checkpoints/D-pairs --dataset pairs --beta -1", "--beta -1.0 is below 0.0"),
    ("evaluation.py --model checkpoints/D-pairs --dataset pairs --reference nosuch", "no model in nosuch"),
    (
        "evaluation.py --model checkpoints/P-toy --dataset toy --reference nosuch",
        "--reference is for preferences; --dataset toy",
    ),
    ("evaluation.py --model checkpoints/P-toy --suite --reference nosuch", "--reference goes with --dataset"),
    (
        "evaluation.py --model checkpoints/S-chat --dataset pairs --reference models/legacy",
        "legacy weights have another head",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --dataset toy --quantize int4",
        "argument --quantize: invalid choice: 'int4'",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --dataset toy --device tpu",
        "--device tpu is unknown: use cuda, cuda:N",
    ),
    (
        "evaluation.py --model checkpoints/P-toy --lm_eval hellaswag",
        "--lm_eval needs the lm-evaluation-harness: pip install",
    ),
    ("stories.demo", "the following arguments are required: --model"),
    ("stories.demo --model nosuch", "no model in nosuch: give a run folder"),
    ("stories.demo --model checkpoints/P-toy --device gpu", "--device gpu is unknown: use cuda"),
]
FOLDERS = [
    (f"evaluation.py --model models/{name} --dataset toy", words, *at)
    for name, words, *at in (
        (
            "broken-config",
            "models/broken-config/config.json is broken (",
            "modelfiles/llama_config.py read_config",
        ),
        (
            "odd-config",
            "models/odd-config/config.json is broken (",
            "modelfiles/llama_config.py parse_config",
        ),
        (
            "gpt2-config",
            "models/gpt2-config is not a plain Llama, so it cannot be used as one: model_type gpt2 needs",
        ),
        (
            "narrow-config",
            "the weights in models/narrow-config do not fit its config.json: model.layers.0.mlp",
        ),
        ("cut-weights", "the weights in models/cut-weights/model.safetensors cannot be read ("),
        ("no-weights", "models/no-weights has no weights: neither a .safetensors file nor pytorch_model.bin"),
        (
            "pickled",
            "models/pickled/pytorch_model.bin is not a complete file of weights, and no code in it was run",
        ),
        ("broken-index", "index.json is broken (", "modelfiles/weights.py"),
        (
            "half-index",
            "part-2.safetensors, which models/half-index/model.safetensors.index.json names, is missing",
        ),
        ("no-tokenizer", "no tokenizer in models/no-tokenizer (tokenizer.json is missing)"),
        (
            "few-tokens",
            "has 257 tokens, the model only 64: use the tokenizer that the model was trained with",
        ),
        ("lost-base", "was trained on the weights in gone, and they are not there any more: bring them back"),
        ("broken-adapter", "adapter_config.json is broken (", "modelfiles/adapter.py"),
        ("cut-adapter", "the adapter in models/cut-adapter cannot be read ("),
        (
            "other-adapter",
            "the adapter in models/other-adapter cannot be added to its base (ValueError: it is no plain LoRA)",
        ),
    )
]
PROMPTS = [
    (f"inference_sft.py --model checkpoints/S-chat --prompts prompts/{name}.jsonl --to r.jsonl", words)
    for name, words in (
        ("nowhere", "--prompts prompts/nowhere.jsonl is no file: give a JSONL file, with rows like"),
        ("no-rows", "--prompts prompts/no-rows.jsonl has no rows"),
        ("latin1", "--prompts prompts/latin1.jsonl is no UTF-8: convert it with iconv -t utf-8"),
        ("not-json", "prompts/not-json.jsonl row 2 is not JSON (Expecting value"),
        ("a-list", 'prompts/a-list.jsonl row 1 is ["a"], not an object with a prompt or messages'),
        (
            "tools",
            "prompts/tools.jsonl row 1 has 'tools', which is not read here: give it as a turn of messages",
        ),
        ("both", "prompts/both.jsonl row 1 has both a prompt and messages: remove one of them"),
        ("neither", 'prompts/neither.jsonl row 1 has neither "prompt": TEXT nor "messages"'),
        ("answered", 'prompts/answered.jsonl row 1 has neither "prompt": TEXT nor "messages"'),
        ("long", "row 1: the prompt has 532 tokens; the context holds 96, the answer included: shorten it"),
        ("half", "row 1: '\\ud83d' holds bytes that are no UTF-8: convert it with iconv -t utf-8"),
    )
]
INFERENCE = [
    *PROMPTS,
    ("inference_sft.py --model nosuch --prompt x", "no model in nosuch: give a run folder"),
    ("inference_sft.py --model SFT --prompt x", "no model in SFT: give a run folder"),
    ("inference_sft.py --model '' --prompt x", "--model is empty: give a value, or drop the flag"),
    (
        "inference_sft.py --model sft --save_checkpoint_dir data --prompt x",
        "no sft in data: train one with python trainer.py",
    ),
    (
        "inference_sft.py --save_checkpoint_dir nowhere --prompt x",
        "no model in nowhere: train one with python trainer.py --train P",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --promt x",
        "--promt is no flag of inference_sft.py: did you mean --prompt",
    ),
    ("inference_sft.py --model checkpoints/S-chat What is wet?", "'What is wet?' belongs to no flag"),
    (
        "inference_sft.py --model checkpoints/P-toy --prompt " + "fox" * 99,
        "the prompt has 297 tokens; the context holds 96, the answer included: shorten the prompt",
    ),
    (
        "inference_sft.py --model checkpoints/P-toy --system hi --prompt x",
        "and a base model continues a text: drop it",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --system hi --raw --prompt x",
        "and --raw continues a text: drop it",
    ),
    (
        "inference_sft.py --model models/legacy --system hi --prompt x",
        "that the published weights were trained without",
    ),
    (
        "inference_sft.py --model models/broken-generation --prompt x",
        "): correct or remove it",
        "checkpoint.py _read_generation_config",
    ),
    (
        "inference_sft.py --model models/odd-generation --prompt x",
        "): correct or remove it",
        "checkpoint.py load_sampling",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompts q.jsonl",
        "--prompts FILE and --to FILE go together",
    ),
    ("inference_sft.py --model checkpoints/S-chat --to r.jsonl", "--prompts FILE and --to FILE go together"),
    (
        "inference_sft.py --model checkpoints/S-chat --prompts prompts/good.jsonl --to r.jsonl --chat",
        "--prompts has its prompts in a file: drop --chat and --prompt",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompts prompts/good.jsonl --to prompts/other-replies.jsonl",
        "--to prompts/other-replies.jsonl row 1 does not answer row 1 of --prompts",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompts prompts/good.jsonl --to book.txt",
        "--to book.txt row 1 does not answer row 1 of --prompts",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompts prompts/good.jsonl --to nowhere/r.jsonl",
        "nowhere/r.jsonl: ",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompt x --max_length 1e3",
        "--max_length: '1e3' is not an integer",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompt x --temperature hot",
        "--temperature: 'hot' is not a number",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompt x --temperature 0,7",
        "'0,7' is not a number, such as 0.1",
    ),
    ("inference_sft.py --model checkpoints/S-chat --prompt x --stop a ''", "--stop must not be empty"),
    (
        "inference_sft.py --model checkpoints/S-chat --prompt x --quantize 8",
        "argument --quantize: invalid choice: '8'",
    ),
    (
        "inference_sft.py --model checkpoints/S-chat --prompt x --seed abc",
        "argument --seed: 'abc' is not an integer",
    ),
    (
        "inference_sft.py --model tokenizers/refuses-system --prompt x",
        "no model in tokenizers/refuses-system",
    ),
]
EXPORT = [
    ("export.py", "one of the arguments --model --average is required"),
    ("export.py --model checkpoints/P-toy", "--to DIR is required"),
    ("export.py --model checkpoints/P-toy --to ''", "--to is empty: give a value, or drop the flag"),
    (
        "export.py --model checkpoints/P-toy --output out",
        "--output is no flag of export.py",
    ),
    ("export.py --model nosuch --to out", "no model in nosuch: give a run folder"),
    (
        "export.py --model checkpoints/P-toy --to out --format onnx",
        "argument --format: invalid choice: 'onnx'",
    ),
    (
        "export.py --model checkpoints/P-toy --to out --dtype int8",
        "argument --dtype/--outtype: invalid choice: 'int8'",
    ),
    ("export.py --model checkpoints/P-toy --to out --dtype q8_0", "--dtype q8_0 needs --format gguf"),
    (
        "export.py --model checkpoints/P-toy --average a b --to out",
        "argument --average: not allowed with argument --model",
    ),
    (
        "export.py --average checkpoints/P-toy --to out",
        "--average takes two steps or more and exports a model",
    ),
    ("export.py --average checkpoints/P-toy checkpoints/S-chat --card", "--average takes two steps or more"),
    (
        "export.py --average checkpoints/P-toy checkpoints/P-toy --to out",
        "--average has checkpoints/P-toy/step_000001 twice",
    ),
    (
        "export.py --average checkpoints/P-toy models/legacy --to out",
        "have no average, their block_size is 96 and 256",
    ),
    (
        "export.py --model checkpoints/P-toy --to data",
        "{tmp}/data is not replaced, since it holds ",
        "export.py check_target",
    ),
    (
        "export.py --model checkpoints/P-toy --to book.txt",
        "{tmp}/book.txt is not replaced, since it is not a folder",
    ),
    (
        "export.py --model checkpoints/P-toy --to checkpoints/P-toy/step_000001",
        "is not replaced, since it holds ",
    ),
    (
        "export.py --model models/good --to models/good",
        "is not replaced, since it is the model itself: choose another",
    ),
    (
        "export.py --model checkpoints/P-toy --to book.txt/out",
        "cannot write to ",
        "export.py main",
    ),
    (
        "export.py --model checkpoints/P-toy --card --to folders/read",
        "README.md is not replaced, since SmolLlama did not write it",
    ),
    (
        "export.py --model models/legacy --to out --format gguf",
        "llama.cpp does not support the published weights (no rotary",
    ),
    (
        "export.py --model models/word-level --to out --format gguf",
        "llama.cpp does not have this tokenizer (it splits text by Whitespace",
    ),
    ("export.py --model checkpoints/P-toy --to out --private", "--private goes with --push_to_hub"),
    (
        "export.py --model checkpoints/P-toy --to out --push_to_hub a/b",
        "--push_to_hub a/b needs --license ID, such as mit",
    ),
    Mistake(
        "export.py --model checkpoints/P-toy --to out --push_to_hub a/b --license mit",
        "--push_to_hub a/b needs to know who you are: log in with `hf auth login`",
        environment={"HF_TOKEN": "", "HF_HOME": "nowhere"},
    ),
    (
        "export.py --model checkpoints/P-toy --to out --push_to_hub 'a b/c' --license mit",
        "a b/c is not the name of a repository",
    ),
]
FILES_OF_MODELS = [
    ("checkpoint.py", "the following arguments are required: command, DIR"),
    ("checkpoint.py check checkpoints/P-toy", "argument command: invalid choice: 'check'"),
    ("checkpoint.py verify", "the following arguments are required: DIR"),
    ("checkpoint.py verify nowhere", "no such folder: nowhere"),
    (
        "checkpoint.py verify folders",
        "folders has no SHA256SUMS, so there is nothing to compare its files with",
    ),
    (
        "checkpoint.py verify checkpoints/flipped",
        "model.safetensors is damaged (its sha256 is not the one in",
        "checkpoint.py main",
    ),
    ("checkpoint.py verify data/cut", "data/cut/train-00000.tokens.bin is missing"),
    ("download_model_weight.py", "no model is named: give -P, -F, -D, --model_type or --repo_id"),
    ("download_model_weight.py -p", "-p is no flag of download_model_weight.py: did you mean -P"),
    ("download_model_weight.py -X", "-X is no flag of download_model_weight.py"),
    ("download_model_weight.py sft", "'sft' belongs to no flag"),
    ("download_model_weight.py -P -F", "argument -F/-sft: not allowed with argument -P/-pretrained"),
    ("download_model_weight.py --model_type base", "argument --model_type: invalid choice: 'base'"),
    (
        "download_model_weight.py --file x.pt --repo_id a/b",
        "--file needs -P, -F, -D or --model_type: the stage decides",
    ),
    (
        "download_model_weight.py -P --file x.pt --repo_id a/b",
        "--file x.pt is a model already, so --repo_id has nothing",
    ),
    ("download_model_weight.py -P --file nowhere.pt", "--file nowhere.pt is no file of this machine"),
    ("download_model_weight.py -P --file data", "--file data is no file of this machine"),
    (
        "download_model_weight.py -P --file book.txt",
        "book.txt is not a complete file of published weights, and no code in",
    ),
    ("download_model_weight.py --repo_id 'a b/c'", "a b/c is not the name of a repository: use OWNER/NAME"),
    (
        "download_model_weight.py -P --save_checkpoint_dir book.txt",
        "cannot write to ",
        "download_model_weight.py main",
    ),
]
TABLE = [*EVALUATION, *FOLDERS, *INFERENCE, *EXPORT, *FILES_OF_MODELS]

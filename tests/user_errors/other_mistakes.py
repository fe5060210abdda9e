"""What users mistype to the page, the plots, the story world and the benchmarks."""

PAGE = [
    ("gradio/app.py --server_port 99999", "--server_port 99999 must lie between 0 and 65535"),
    ("gradio/app.py --server_port -1", "--server_port -1 must lie between 0 and 65535"),
    ("gradio/app.py --auth secret", "--auth takes USER:PASSWORD, neither of them empty"),
    ("gradio/app.py --auth me:", "--auth takes USER:PASSWORD, neither of them empty"),
    ("gradio/app.py --server_port http", "argument --server_port: 'http' is not an integer"),
    ("gradio/app.py --port 80", "--port is no flag of app.py: did you mean --server_port"),
    ("gradio/app.py --model a b c d e", "--model takes one to 4 different models"),
    ("gradio/app.py --model a a", "--model takes one to 4 different models"),
    ("gradio/app.py --model nosuch", "no model in nosuch: give a run folder"),
    ("gradio/app.py --temperature -1", "--temperature -1.0 is below 0.0"),
    ("gradio/app.py --votes", "argument --votes: expected one argument"),
    ("gradio/app.py --share yes", "--share takes no value: drop 'yes'"),
]
PLOTS = [
    ("training.plots", "the following arguments are required: --runs"),
    ("training.plots --runs nowhere", "nowhere is not a run folder (metrics.jsonl is missing)"),
    (
        "training.plots --runs checkpoints/P-toy --to curves.pdf",
        "--to curves.pdf must be a file that ends in .png, in a folder",
    ),
    (
        "training.plots --runs checkpoints/P-toy --to nowhere/x.png",
        "--to nowhere/x.png must be a file that ends in .png",
    ),
    ("training.plots --runs checkpoints/P-toy --to data", "--to data must be a file that ends in .png"),
]
STORIES = [
    ("stories.world --count -1", "--count -1 must be 0 or more", "stories/world.py"),
    ("stories.world --split test", "argument --split: invalid choice: 'test'"),
    ("stories.examples --count -1", "--count -1 must be 0 or more", "stories/examples.py"),
    (
        "stories.examples --preference",
        "--preference is no flag of stories.examples: did you mean --preferences?",
    ),
]
BENCHMARKS = [
    ("benchmarks/gpu.py", "there is no CUDA device: add --tiny to try the program on a CPU"),
    ("benchmarks/gpu.py nonsense", "no such part: nonsense"),
    ("benchmarks/gpu.py --tiny --nanogpt nowhere.py", "--nanogpt nowhere.py is no file: it is model.py of"),
    ("benchmarks/gpu.py --tiny --json nowhere/x.json", "--json nowhere/x.json: its folder does not exist"),
    ("benchmarks/characters.py", "the following arguments are required: --text"),
    ("benchmarks/characters.py --text nowhere.txt", "no such file: --text nowhere.txt"),
    ("benchmarks/characters.py --text book.txt --only nanoGPT", "argument --only: invalid choice: 'nanoGPT'"),
    ("benchmarks/pretraining.py --rounds 0", "--rounds 0 must be 1 or more", "benchmarks/harness.py"),
    (
        "benchmarks/pretraining.py --python litgpt",
        "--python litgpt must be like NAME=PATH, where NAME is one of",
    ),
    ("benchmarks/pretraining.py --python x=y", "--python x=y must be like NAME=PATH, where NAME is one of"),
    ("benchmarks/preparing.py", "--text FILE must name a file: JSONL whose text is repeated"),
    (
        "benchmarks/preparing.py --text nowhere",
        "--text nowhere must name a file: JSONL whose text is repeated",
    ),
    ("benchmarks/page.py --clients 0", "--clients 0 must be 1 or more", "benchmarks/page.py"),
    (
        "benchmarks/page_pictures.py --save_checkpoint_dir data",
        "no run in data/P-stories: bash install.sh quickstart",
    ),
]
TABLE = [*PAGE, *PLOTS, *STORIES, *BENCHMARKS]

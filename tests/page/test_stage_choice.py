"""Choice of a model: its line says what happens to a text, or how to make the model."""

from replies import StageModels
from stage_choice import StageChoice
from stand_ins import ARGS

import gradio as gr


def test_the_line_says_how_a_model_replies(models, tmp_path, env):
    with gr.Blocks():
        choice = StageChoice(models)
        none = StageChoice(StageModels(ARGS.replace(save_checkpoint_dir=str(tmp_path / "none")), env))
    assert "Base model" in choice.describe("pretrained")[choice.line]
    assert "S-toy/" in choice.describe("sft")[choice.line]
    assert choice.open_page()[choice.stage] == "dpo"
    assert "trainer.py --train S" in none.describe("sft")[none.line]
    assert none.open_page()[none.stage] == "pretrained"

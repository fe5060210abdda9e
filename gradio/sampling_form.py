"""Sampling settings as a form: sliders with the names, defaults and help of the command line."""

from collections.abc import Sequence
from dataclasses import fields

import gradio as gr
from config import ModelArgs

# Least value, greatest value and step of each slider. The handlers receive the values in this order, then the seed.
RANGES = {
    "max_length": (1, 1000, 1),
    "temperature": (0, 2, 0.05),
    "top_k": (0, 200, 1),
    "top_p": (0.01, 1, 0.01),
    "min_p": (0, 1, 0.01),
    "repetition_penalty": (0.5, 2, 0.05),
    "frequency_penalty": (0, 2, 0.05),
}


def sampling_components(args: ModelArgs) -> list[gr.Component]:
    """Return the sliders and the seed's number field; the caller renders them where they belong."""
    help_texts = {field.name: field.metadata["help"] for field in fields(ModelArgs)}

    components: list[gr.Component] = []
    for name, (low, high, step) in RANGES.items():
        default = getattr(args, name)
        slider = gr.Slider(
            minimum=low,
            maximum=max(high, default),
            value=default,
            step=step,
            label=name,
            info=help_texts[name],
            render=False,
        )
        components.append(slider)

    seed = gr.Number(
        args.seed,
        precision=0,
        minimum=0,
        label="seed",
        info="the same seed gives the same text; leave it empty for a random one",
        render=False,
    )
    return [*components, seed]


def args_from_form(args: ModelArgs, values: Sequence[float | None]) -> ModelArgs:
    """Return the settings with the form's values, checked by the same rules as the command line.

    An empty seed is None. Raises UserError for a value that the command line refuses.
    """
    chosen = {}
    for name, value in zip([*RANGES, "seed"], values, strict=True):
        # Sliders send floats for integer settings as well.
        if isinstance(getattr(ModelArgs, name), int) and value is not None:
            value = int(value)
        chosen[name] = value
    return args.replace(**chosen)

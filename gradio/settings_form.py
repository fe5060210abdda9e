"""Sampling settings as a form: each named in words with its flag, three presets, a rule where a number is wrong.

The form is plain HTML, whose fields the browser checks; page.js keeps it and the page's address in step. Its value is
{name: text}.
"""

import json
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path

import gradio as gr
from config import ModelArgs
from runtime.errors import UserError


@dataclass(frozen=True)
class SettingField:
    """Setting in the form: its name in words, and the range of its slider, which numbers may exceed."""

    name: str
    words: str
    low: float = 0
    high: float = 0  # 0: no slider
    step: float = 1
    folded: bool = True


FIELDS = (
    SettingField("temperature", "Temperature", 0, 2, 0.05, folded=False),
    SettingField("max_length", "Length of a reply, in tokens", 1, 1000, folded=False),
    SettingField("top_k", "Only the most probable tokens", 0, 200),
    SettingField("top_p", "Only tokens that hold this probability", 0.01, 1, 0.01),
    SettingField("min_p", "No token far below the best", 0, 1, 0.01),
    SettingField("repetition_penalty", "Against tokens that the text has", 0.5, 2, 0.05),
    SettingField("frequency_penalty", "Against tokens written often", 0, 2, 0.05),
    SettingField("seed", "Seed"),
)
HELP = {
    "temperature": "0 takes the most probable token each time; higher is more varied",
    "seed": "the same seed gives the same text; empty: a new one for each reply",
}
PRESETS = {
    "Precise": {"temperature": 0.2, "top_k": 0, "top_p": 0.9, "min_p": 0.0},
    "Balanced": {},  # what the page began with
    "Creative": {"temperature": 1.1, "top_k": 0, "top_p": 1.0, "min_p": 0.05},
}
SETTING = {field.name: field for field in fields(ModelArgs)}
PAGE_SCRIPT = Path(__file__).with_name("page.js")


def settings_form(args: ModelArgs, seed: int | None = None) -> gr.HTML:
    """Return the form with these settings; without a seed its field is empty. The caller renders it."""
    values = {field.name: _text(getattr(args, field.name)) for field in FIELDS}
    values["seed"] = _text(seed)
    return gr.HTML(
        values,
        html_template=_form(values),
        js_on_load=PAGE_SCRIPT.read_text(encoding="utf-8"),
        elem_id="settings",
        render=False,
    )


def _form(values: dict[str, str]) -> str:
    """Return the form as HTML, with these values at first."""
    rows = {True: "", False: ""}
    for field in FIELDS:
        rows[field.folded] += _row(field, values[field.name])

    buttons = ""
    for name, changes in PRESETS.items():
        preset = {key: _text(changes[key]) if changes else values[key] for key in PRESETS["Precise"]}
        buttons += (
            f"<button type='button' aria-pressed='false' data-preset='{json.dumps(preset)}'>{name}</button>"
        )
    return (
        "<form class='settings' novalidate onsubmit='return false'>"
        f"<div class='presets' role='group' aria-label='Presets'>{buttons}</div>{rows[False]}"
        f"<details><summary>More settings</summary>{rows[True]}</details></form>"
    )


def _row(field: SettingField, value: str) -> str:
    """Return a setting's words, flag, number, slider, help and rule."""
    metadata = SETTING[field.name].metadata
    name = f"setting-{field.name}"
    limits = "".join(
        f" {attribute}='{metadata[key]}'"
        for attribute, key in (("min", "minimum"), ("max", "maximum"))
        if metadata[key] is not None
    )
    step = "1" if is_integer(field.name) else "any"
    required = "" if field.name == "seed" else " required"
    slider = ""
    if field.high:
        high = max(field.high, float(value))
        slider = (
            f"<input type='range' data-for='{field.name}' min='{field.low}' max='{high:g}' step='{field.step}' "
            f"value='{value}' aria-label='{escape(field.words)}, as a slider'>"
        )
    return (
        f"<div class='setting'><div class='name'><label for='{name}'>{escape(field.words)}</label>"
        f"<code>--{field.name}</code></div><div class='number'>{slider}<input type='number' id='{name}' "
        f"name='{field.name}' value='{value}' step='{step}'{limits}{required} "
        f"aria-describedby='{name}-help {name}-rule'></div>"
        f"<p class='rule' id='{name}-rule' role='alert'>{escape(rule(field))}</p>"
        f"<p class='help' id='{name}-help'>{escape(HELP.get(field.name) or metadata['help'])}</p></div>"
    )


def is_integer(name: str) -> bool:
    """Return True for a setting that takes integers only."""
    return isinstance(getattr(ModelArgs, name), int)


def rule(field: SettingField) -> str:
    """Return in words which numbers a setting takes."""
    metadata = SETTING[field.name].metadata
    kind = "an integer" if is_integer(field.name) else "a number"
    low, high = metadata["minimum"], metadata["maximum"]
    if high is not None:
        kind += f" from {low:g} to {high:g}"
    elif low is not None:
        kind += f" of {low:g} or more"
    empty = ", or leave it empty" if field.name == "seed" else ""
    return f"Write {kind}{empty}."


def args_from_form(args: ModelArgs, values: object) -> ModelArgs:
    """Return the settings with the form's values, checked by the same rules as the command line.

    A seed that is empty, or missing, is None; another setting that is missing keeps its value.

    Raises UserError for a value that the form refuses.
    """
    if not isinstance(values, dict):
        values = {}
    chosen: dict[str, float | None] = {"seed": None}
    for field in FIELDS:
        text = str(values.get(field.name, "")).strip()
        if field.name not in values or (field.name == "seed" and text in ("", "None")):
            continue
        try:
            chosen[field.name] = int(text) if is_integer(field.name) else float(text)
        except ValueError:
            fault = f"{text[:20]!r} is no such number" if text else "the field is empty"
            raise UserError(f"{field.words} (--{field.name}): {fault}. {rule(field)}") from None

    # One after the other, so that the message has the setting's words.
    for field in FIELDS:
        try:
            args = args.replace(**{field.name: chosen.get(field.name, getattr(args, field.name))})
        except UserError as error:
            raise UserError(f"{field.words}: {error}. {rule(field)}") from None
    return args


def _text(value: float | None) -> str:
    """Return a value as the form shows it."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:g}"

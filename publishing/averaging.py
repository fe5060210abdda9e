"""Mean of the weights of several checkpoints: near the end of a run it often has a lower loss than each of them.

Averages along one run are those of arXiv 1803.05407 (SWA), averages of several fine-tuned models from one start those
of arXiv 2203.05482 (model soups).
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from generation.chat import ChatModel, load_chat_model
from runtime.errors import UserError


@torch.no_grad()
def average_models(folders: Sequence[Path]) -> ChatModel:
    """Return the model of the last folder with the mean of the weights of all, added up in float64.

    Raises UserError where a folder is named twice, or where architectures, tokenizers or chat templates differ.
    """
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"--average has {twice[0]} twice: name each step once")

    result = load_chat_model(folders[-1])
    sums = {name: weight.double() for name, weight in result.model.named_parameters()}
    for folder in folders[:-1]:
        other = load_chat_model(folder)
        if difference := _difference(other, result):
            raise UserError(
                f"{folder} and {folders[-1]} have no average, {difference}: give --average steps of one run, or of "
                "runs from one start"
            )
        for name, weight in other.model.named_parameters():
            sums[name] += weight

    for name, weight in result.model.named_parameters():
        weight.copy_(sums[name] / len(folders))
    return result


def _difference(one: ChatModel, other: ChatModel) -> str:
    """Return why the weights of two models mean different things; empty if they do not."""
    for field in fields(one.model.args):
        values = [getattr(chat_model.model.args, field.name) for chat_model in (one, other)]
        if values[0] != values[1]:
            return f"their {field.name} is {values[0]} and {values[1]}"
    if one.model.legacy != other.model.legacy:
        return "one is of the architecture once published"
    if one.tokenizer.hash != other.tokenizer.hash:
        return "their tokenizers differ"
    if one.tokenizer.chat_template != other.tokenizer.chat_template:
        return "their chat templates differ"
    return ""

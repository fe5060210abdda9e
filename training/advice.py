"""Advice on a run: what its metrics and its last sample show to be wrong, and what to try.

Each function takes the rows of metrics.jsonl, or a sample, and returns a message, empty where all is well. The limits
are wide: a message should be right rather than early, and none of the presets gets one.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from training.metrics import comparable_loss

MIN_TRAIN_ROWS = 20  # fewer steps are noise
WINDOWS = 10  # parts of a run whose means are compared
MIN_PAIRS = 100  # of a part of a DPO run, so that its accuracy is known to about 0.05
OVERFIT_RISE = 0.02  # of the validation loss above its lowest value, relative to that
NOT_FALLEN = 0.99  # of the first loss
FALL_LOST = 0.25  # share of the fall of the training loss that it may lose again
ACCURACY_LOST = 0.1  # below the best part of the run
MARGIN_LEFT = 0.3  # share of the largest margin
CHOSEN_LOST = 1.0  # reward of the chosen answers, below which they have become much less likely
MIN_WORDS = 24  # of a sample, or its repetition is chance
REPEATED_SHARE = 0.3  # of the groups of four words


def overfitting(rows: Sequence[dict], beta: float) -> str:
    """Return advice where the validation loss rises, evaluation after evaluation, and the training loss falls."""
    evaluations = [{**row, "loss": comparable_loss(row)} for row in rows if row["split"] == "val"]
    if len(evaluations) < 3:
        return ""

    best = min(evaluations, key=lambda row: row["loss"])
    after_best = evaluations[evaluations.index(best) :]
    rises = len(after_best) > 2 and after_best[-1]["loss"] > (1 + OVERFIT_RISE) * best["loss"]
    if not rises or min(row["loss"] for row in after_best[-2:]) <= best["loss"]:
        return ""

    losses = _train_means(rows, "loss")
    if not losses or losses[-1] > min(losses) * (1 + OVERFIT_RISE) or losses[-1] >= after_best[-1]["loss"]:
        return ""
    return (
        f"overfitting: the validation loss was lowest at step {best['step']} ({best['loss']:.4f}) and is "
        f"{after_best[-1]['loss']:.4f} now, while the training loss is {losses[-1]:.4f}: take the checkpoint of about "
        "that step, or try more data, fewer --epochs, --dropout 0.1 or a smaller model"
    )


def divergence(rows: Sequence[dict], beta: float) -> str:
    """Return advice where the loss is not below that of the start, or has lost much of its fall."""
    losses = _train_means(rows, "loss")
    if not losses:
        return ""
    first = next(row for row in rows if row["split"] == "train")
    if "accuracy" in first:
        return _worse_than_the_reference(rows, first["loss"])

    start, lowest, last = losses[0], min(losses), losses[-1]
    if last > 1.1 * lowest and last - lowest > FALL_LOST * (start - lowest):
        return f"the training loss rose from {lowest:.4f} to {last:.4f}: try a lower --max_lr or more --warmup_iters"
    if last > NOT_FALLEN * first["loss"]:
        return (
            f"the training loss has not fallen ({first['loss']:.4f} in the first step, {last:.4f} now): try a "
            "lower --max_lr, or more steps"
        )
    return ""


def _worse_than_the_reference(rows: Sequence[dict], first_loss: float) -> str:
    """Return advice where DPO's validation loss is above that of its start, the reference.

    The training loss of a few pairs varies too much from step to step.
    """
    validation_losses = [row["loss"] for row in rows if row["split"] == "val"]
    if not validation_losses or validation_losses[-1] < 1.1 * first_loss:
        return ""
    return (
        f"the validation loss ({validation_losses[-1]:.4f}) is above that of the start ({first_loss:.4f}): try a lower "
        "--max_lr or fewer steps"
    )


def falling_chosen(rows: Sequence[dict], beta: float) -> str:
    """Return advice where DPO makes the chosen answers less likely, most of all in the last third of the run."""
    thirds = _train_means(rows, "chosen_reward", parts=3)
    margins = _train_means(rows, "margin", parts=3)
    if not thirds or thirds[-1] > -CHOSEN_LOST or thirds[-1] > thirds[-2] or -thirds[-1] < margins[-1]:
        return ""
    return (
        f"the chosen answers have become less likely (reward {thirds[-1]:.2f}, log-probs {thirds[-1] / beta:.1f} nats "
        "an answer): try a lower --max_lr, a larger --beta or fewer steps"
    )


def margin_collapse(rows: Sequence[dict], beta: float) -> str:
    """Return advice where the accuracy or the margin of DPO falls far below its best."""
    thirds = _train_means(rows, "accuracy", parts=3)
    margins = _train_means(rows, "margin", parts=3)
    if not thirds or sum(row["count"] for row in rows if row["split"] == "train") < 3 * MIN_PAIRS:
        return ""

    if max(thirds) - thirds[-1] > ACCURACY_LOST:
        fall = f"accuracy fell from {max(thirds):.2f} to {thirds[-1]:.2f}"
    elif max(margins) > 0 and margins[-1] < MARGIN_LEFT * max(margins):
        fall = f"margin fell from {max(margins):.2f} to {margins[-1]:.2f}"
    else:
        return ""
    return f"the {fall}: try a lower --max_lr or a larger --beta"


def repetition(text: str) -> str:
    """Return advice where a sample repeats its own words: the share of repeated groups of four."""
    words = text.split()
    if len(words) < MIN_WORDS:
        return ""

    groups = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    share = 1 - len(set(groups)) / len(groups)
    if share < REPEATED_SHARE:
        return ""
    return f"the sample repeats itself ({share:.0%} of it): try --repetition_penalty 1.1 or train longer"


def endless_reply(new_tokens: int, room: int) -> str:
    """Return advice where a reply fills the room of --max_length and context instead of being ended by the model."""
    if new_tokens < room:
        return ""
    return f"the sample was cut after {room} tokens: try a larger --max_length or train longer"


RULES: tuple[Callable[[Sequence[dict], float], str], ...] = (
    overfitting,
    divergence,
    falling_chosen,
    margin_collapse,
)


def advice_on(rows: Sequence[dict], beta: float) -> dict[str, str]:
    """Return {name of a rule: its message} of the rules that apply to the rows of metrics.jsonl."""
    messages = {rule.__name__: rule(rows, beta) for rule in RULES}
    return {name: message for name, message in messages.items() if message}


def _train_means(rows: Sequence[dict], name: str, parts: int = WINDOWS) -> list[float]:
    """Return the mean of a value of the training rows over each of equal parts of the run; none of a short run."""
    values = [row[name] for row in rows if row["split"] == "train" and name in row]
    if len(values) < MIN_TRAIN_ROWS:
        return []
    bounds = [round(len(values) * part / parts) for part in range(parts + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(bounds)]

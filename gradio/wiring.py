"""Wiring of events: starts that stream a reply, and a button that cancels it.

Inputs are named as the parameters of the function; a function returns its outputs as {component: value}.
"""

import secrets
from collections.abc import Callable
from typing import NamedTuple

import gradio as gr

# Handlers that compute next to nothing run at once, without a spinner, and are no part of the page's API.
NO_QUEUE = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

# A change of a State is seen in the results of the queue only, so what begins a reply goes through it, without waiting.
AT_ONCE = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

# After a cancelled stream its own end follows too: one after the other, so that the later sees what the earlier wrote.
IN_ORDER = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_id": "finish",
    "concurrency_limit": 1,
}

# The queue starts every reply: they wait for each other in WaitingLine, which shows them their place.
STREAM = {"show_progress": "hidden", "concurrency_limit": None}


class Handler(NamedTuple):
    """Function with the components that it reads, by the names of its parameters, and those that it may write."""

    function: Callable
    inputs: dict[str, gr.Component]
    outputs: list[gr.Component]

    @property
    def options(self) -> dict:
        """Return what Gradio's events take."""
        return {"fn": self.function, "inputs_kwargs": self.inputs, "outputs": self.outputs}


class Start(NamedTuple):
    """Events that begin a reply, and what happens at once."""

    events: list[Callable]
    begin: Handler


def wire_reply(
    starts: list[Start],
    job: gr.State,
    stop: gr.Button,
    stream: Handler,
    finish: Handler,
    api_name: str | None = None,
) -> list[gr.events.Dependency]:
    """Connect what happens from a start to the end of its reply; return the events that can be cancelled.

        start  →  begin (at once) sets a new job  →  stream (waits in the line)  →  finish
        stop   →  cancel stream                   →  finish

    A start that sets no new job, as while a reply is written, does nothing more. With an api_name other programs may
    call `stream`.
    """
    for start in starts:
        gr.on(start.events, **start.begin.options, **AT_ONCE)

    visibility = {"api_name": api_name} if api_name else {"api_visibility": "private"}
    streaming = job.change(**stream.options, **visibility, **STREAM)
    streaming.then(**finish.options, **IN_ORDER)
    wire_cancel(stop, [streaming], finish)
    return [streaming]


def new_job() -> str:
    """Return a job that differs from all others."""
    return secrets.token_hex(8)


def wire_cancel(button: gr.Button, streams: list[gr.events.Dependency], finish: Handler) -> None:
    """Connect a button that cancels the streams and only then calls `finish`.

    In this order no late update of a stream overwrites what `finish` has written.
    """
    cancelled = button.click(None, None, None, cancels=streams, **NO_QUEUE)
    cancelled.then(**finish.options, **IN_ORDER)


def start_and_stop(start: gr.Button, stop: gr.Button, running: bool) -> dict:
    """Return updates of a start and a stop button: exactly one of them is visible."""
    return {start: gr.update(visible=not running), stop: gr.update(visible=running)}


def event_value(event: gr.EventData, name: str) -> str:
    """Return a value of an event of page.js; empty where another program has sent something else."""
    try:
        value = getattr(event, name)
    except (AttributeError, TypeError):
        return ""
    return value if isinstance(value, str) else ""

"""Wiring of events: a start that streams a reply, and a button that cancels it."""

from collections.abc import Callable
from typing import NamedTuple

import gradio as gr

# All replies share one queue with one worker: in parallel each would be slower, and memory would grow.
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}

# Handlers that compute next to nothing run at once, without a spinner, and are no part of the page's API.
NO_QUEUE = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Handler(NamedTuple):
    """Function with the components that it reads and the components that it writes."""

    function: Callable
    inputs: list[gr.Component]
    outputs: list[gr.Component]


def wire_reply(
    starts: list[tuple[Callable, gr.Component]],
    stop: gr.Button,
    begin: Handler,
    stream: Handler,
    finish: Handler,
    api_name: str,
) -> list[gr.events.Dependency]:
    """Connect what happens from a start to the end of its reply; return the events that can be cancelled.

    Each start is (event, component); the component's value is the first argument of `begin`.

        start  →  begin (at once)  →  stream (waits in the queue)  →  finish (at once)
        stop   →  cancel stream    →  finish (at once)
    """
    streams = []
    for event, source in starts:
        started = event(begin.function, [source, *begin.inputs], begin.outputs, **NO_QUEUE)
        streaming = started.success(*stream, show_progress="minimal", api_name=api_name, **ONE_AT_A_TIME)
        streaming.then(*finish, **NO_QUEUE)
        streams.append(streaming)

    wire_cancel(stop, streams, finish)
    return streams


def wire_cancel(button: gr.Button, streams: list[gr.events.Dependency], finish: Handler) -> None:
    """Connect a button that cancels the streams and only then calls `finish`.

    In this order no late update of a stream overwrites what `finish` has written.
    """
    cancelled = button.click(None, None, None, cancels=streams, **NO_QUEUE)
    cancelled.then(*finish, **NO_QUEUE)

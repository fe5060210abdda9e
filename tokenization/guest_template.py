"""Chat template of a tokenizer's folder, in Jinja: conversations as it renders them, and what of them is learned."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from runtime.errors import UserError
from runtime.limits import bounded
from tokenization.special_tokens import NAMED, NO_CHARACTER, RenamedTokens

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]  # first character of a response in the rendered text, and the one after its last

HAS_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBE = (
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four", "train": False},
)
OTHER_TEMPLATE = "--template smolllama takes SmolLlama's prompt template instead"
MAX_SECONDS = 2.0  # of the first conversation that a template renders, and the memory that it may take
MAX_BYTES = 1 << 30
MAX_MESSAGE = 150  # characters of an error that a template raises


class RefusedByTemplate(UserError):
    """Conversation that a chat template does not render, or not so that it shows which tokens a response is."""


class GuestTemplate:
    """Jinja template of a tokenizer, rendered as transformers' apply_chat_template does.

    `settings` is tokenizer_config.json with the names of its special tokens, `tokens` the copy that encodes.
    """

    def __init__(self, source: str, settings: Mapping[str, object], tokens: RenamedTokens):
        self.source = source
        self.tokens = tokens
        self.ends = re.compile(rf"(?:{tokens.names.pattern})\Z")
        self.has_rendered = False
        self.variables = {name: settings[name] for name in NAMED if isinstance(settings.get(name), str)}

    def render(self, messages: Messages) -> tuple[list[int], list[bool]]:
        """Return the token ids of a conversation, as apply_chat_template gives them, and its loss mask.

        The mask is True for what is inside the template's generation marks; without marks, for what a response adds to
        the conversation before it, as in TRL's training templates. A response with "train": False is context. If the
        last message is not the assistant's, the generation prompt follows. Special tokens in contents stay text.

        Raises RefusedByTemplate where the template raises an error or does not show which tokens a response is.
        """
        turns = [{"role": turn["role"], "content": self.tokens.hide(turn["content"])} for turn in messages]
        text, marks = self._text(turns, messages[-1]["role"] != "assistant")
        for turn in turns:
            if turn["content"].strip() not in text:
                raise RefusedByTemplate(f"the chat template does not show the {turn['role']} turn as it is")
        responses = [index for index, turn in enumerate(messages) if turn["role"] == "assistant"]
        if HAS_MARKS.search(self.source):
            spans = marks
        else:
            spans = [self._added_by(turns, index, text) for index in responses]
        if len(spans) != len(responses):
            raise RefusedByTemplate(
                f"the chat template marks {len(spans)} responses in a conversation of {len(responses)}"
            )

        encoding = self.tokens.hf.encode(self.tokens.rename(text), add_special_tokens=False)
        loss_mask = [False] * len(encoding.ids)
        for index, span in zip(responses, spans, strict=True):
            if messages[index].get("train", True):
                for position in self._positions(encoding, text, span):
                    loss_mask[position] = True
        return encoding.ids, loss_mask

    def end_ids(self) -> list[int]:
        """Return the special tokens that end a response, one or none; not what may end the entire conversation.

        Raises RefusedByTemplate where `render` does for a plain conversation of two questions and answers.
        """
        ids, loss_mask = self.render(PROBE)
        learned = [token_id for token_id, is_learned in zip(ids, loss_mask, strict=True) if is_learned]
        return [token_id for token_id in learned if self._is_special(token_id)][-1:]

    def _text(self, turns: Messages, add_generation_prompt: bool) -> tuple[str, list[Span]]:
        """Return turns as text, and the spans inside generation marks."""
        # Only the models of others need it: our own start faster without.
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            # A template that renders the first conversation in no time may be trusted with the others.
            with contextlib.nullcontext() if self.has_rendered else bounded(MAX_SECONDS, MAX_BYTES):
                texts, marks = render_jinja_template(
                    conversations=[list(turns)],
                    chat_template=self.source,
                    add_generation_prompt=add_generation_prompt,
                    return_assistant_tokens_mask=HAS_MARKS.search(self.source) is not None,
                    **self.variables,
                )
        except Exception as error:  # a template is a program of others: it may divide by zero
            message = " ".join(str(error).split())[:MAX_MESSAGE]
            raise RefusedByTemplate(f"the chat template refuses the conversation ({message})") from None
        self.has_rendered = True
        return texts[0], marks[0] if marks else []

    def _added_by(self, turns: Messages, index: int, text: str) -> Span:
        """Return the span that the response `index` adds to the conversation before it."""
        before, _ = self._text(turns[:index], add_generation_prompt=True)
        after, _ = self._text(turns[: index + 1], add_generation_prompt=False)
        while not text.startswith(after) and (end := self.ends.search(after)):
            after = after[: end.start()]  # some put a token at the end of every conversation
        if not after.startswith(before) or not text.startswith(after):
            raise RefusedByTemplate(
                f"the chat template renders turn {index + 1} otherwise when it is followed by another, or when it "
                "is still to be generated, so it does not show which tokens a response is"
            )
        return len(before), len(after)

    def _positions(self, encoding: tokenizers.Encoding, text: str, span: Span) -> range:
        """Return the positions of the tokens of a span of the rendered text, as transformers maps characters."""
        start, end = (len(self.tokens.rename(text[:character])) for character in span)
        first = encoding.char_to_token(start)
        last = encoding.char_to_token(end - 1)
        if first is None or last is None:
            return range(0)  # an empty response without an end
        return range(first, last + 1)

    def _is_special(self, token_id: int) -> bool:
        token = self.tokens.hf.id_to_token(token_id)
        return token is not None and token.startswith(NO_CHARACTER)

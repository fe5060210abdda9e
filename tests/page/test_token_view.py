"""View of tokens: the prompt with its line ends, entropy as colour, alternatives that continue from there."""

import re

from html_reader import Reader
from token_probs import Alternative, TokenProbs
from token_view import colored_tokens, growing_text

TOKENS = [
    TokenProbs("\nb", 0.25, 4.0, [Alternative(7, "c", 0.5), Alternative(8, "\nb", 0.25)]),
    TokenProbs("d", 1.0, 0.0, [Alternative(9, "d", 1.0)]),
]


def test_tokens_show_probability_entropy_and_alternatives():
    html = colored_tokens("a", TOKENS, 16.0)
    assert "--unsure:0.500" in html and "--unsure:0.000" in html
    assert 'aria-label="⏎b, 25.0%, 4.0 bits"' in html and "16.0 bits: all tokens alike" in html
    assert html.count('class="alternative') == 5  # two lists and three rows
    assert html.count('class="alternative sampled"') == 2
    assert "width:50.0%" in html and "<br>" in html


def test_an_alternative_knows_its_place():
    html = colored_tokens("a", TOKENS, 16.0)
    found = re.findall(r'data-action="branch" data-position="(\d)" data-token="(\d)"', html)
    assert found == [("0", "7"), ("0", "8"), ("1", "9")]


def test_the_prompt_is_shown_exactly():
    prompt = "### Instruction:\nHi <b>\n\n"
    for html in (colored_tokens(prompt, [], 1.0), growing_text(prompt, "reply")):
        assert Reader(html).text.startswith(prompt)
        assert html.count("line-end") == 3

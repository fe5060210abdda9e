"""Curves: lines go through the measured points, several runs share a figure, DPO shows more than its loss."""

import math

from curves import HEIGHT, MAX_POINTS, WIDTH, RunCurves, curves_page, figure
from html_reader import Reader

ROWS = [
    {"split": "train", "loss": 3.0, "tokens": 50},
    {"split": "train", "loss": 1.0, "tokens": 100},
    {"split": "val", "loss": 2.0, "tokens": 100},
]


def test_the_curve_goes_through_the_measured_points():
    html = figure([RunCurves("run", "P", ROWS)], "loss", "loss")
    assert f'class="train run-0" points="{WIDTH / 2:.1f},0.0 {WIDTH:.1f},{HEIGHT:.1f}"' in html
    assert f'class="val run-0" points="{WIDTH:.1f},{HEIGHT / 2:.1f}"' in html
    assert 'aria-label="loss of run, from 1 to 3 over 100 tokens"' in html
    assert "training 1.000, validation 2.000" in Reader(html).text


def test_runs_of_a_stage_share_a_figure_and_its_scale():
    other = [{"split": "val", "loss": 5.0, "tokens": 200}]
    html = curves_page([RunCurves("a", "P", ROWS), RunCurves("b", "P", other), RunCurves("s", "S", ROWS)])
    assert html.count("<svg") == 2 and "Pretraining" in html and "Supervised" in html
    assert "loss of a, b, from 1 to 5 over 200 tokens" in html
    assert 'class="val run-1" points="320.0,0.0"' in html


def test_dpo_shows_accuracy_margin_and_the_chosen_answers():
    row = {"split": "val", "loss": 9.75, "tokens": 10, "accuracy": 0.5, "margin": 2.0, "chosen_logps": -3.5}
    text = Reader(curves_page([RunCurves("d", "D", [row])])).text
    assert all(words in text for words in ("0.500", "2.000", "-3.500")) and "9.750" not in text


def test_missing_and_infinite_values_are_left_out():
    rows = [*ROWS, {"split": "train", "loss": math.nan, "tokens": 120}, {"split": "train", "tokens": 130}]
    assert figure([RunCurves("run", "P", rows)], "loss", "loss") == figure(
        [RunCurves("run", "P", ROWS)], "loss", "loss"
    )
    empty = figure([RunCurves("run", "P", [])], "loss", "loss")
    assert "no measurements" in empty and "<svg" not in empty
    assert "No run is chosen" in curves_page([])


def test_many_points_become_means():
    rows = [{"split": "train", "loss": float(n % 2), "tokens": n + 1} for n in range(10 * MAX_POINTS)]
    html = figure([RunCurves("run", "P", rows)], "loss", "loss")
    assert html.count(",") < 2 * MAX_POINTS and "from 0.5 to 0.5" in html

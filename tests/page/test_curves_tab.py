"""Curves tab: the runs that there are, the newest of each stage at first, and new measurements while one trains."""

import json
import os
import time

import pytest
from curves_tab import CurvesTab, run_stage
from page_browser import choose, needs_browser
from stand_ins import run_of

import gradio as gr

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


@pytest.fixture
def tab(models):
    """The tab with a run of each stage."""
    with gr.Blocks():
        return CurvesTab(models)


def append(run, **row):
    """Append a row to a run's metrics."""
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 9, "split": "val", "tokens": 5000, **row}) + "\n")


def test_the_newest_run_of_each_stage_is_chosen(tab, tmp_path):
    newer = run_of("P", tmp_path / "runs", name="P-newer").parent
    soon = time.time() + 5
    os.utime(newer / "metrics.jsonl", (soon, soon))
    opened = tab.open_page()[tab.runs]
    assert opened["choices"][0] == "P-newer" and len(opened["choices"]) == 4
    assert sorted(opened["value"]) == ["D-toy", "P-newer", "S-toy"]

    drawn = tab.draw(chosen=["P-newer", "P-toy", "gone"], stamp="")
    assert drawn[tab.html].count("<svg") == 1 and drawn[tab.html].count('class="legend"') == 2


def test_a_run_without_a_step_shows_its_stage_by_its_name(tmp_path):
    for name, stage in (("S-new", "S"), ("D-new", "D"), ("mine", "P")):
        (tmp_path / name).mkdir()
        assert run_stage(tmp_path / name) == stage


def test_it_draws_again_where_a_file_has_grown(tab, tmp_path):
    drawn = tab.draw(chosen=["S-toy"], stamp="")
    same = tab.look_again(chosen=["S-toy"], stamp=drawn[tab.stamp])
    assert tab.html not in same
    append(tmp_path / "runs" / "S-toy", loss=0.125)
    again = tab.look_again(chosen=["S-toy"], stamp=drawn[tab.stamp])
    assert "validation 0.125" in again[tab.html] and again[tab.stamp] != drawn[tab.stamp]


def test_the_timer_runs_while_the_tab_is_open(tab):
    for title, active in (("Curves", True), ("Chat", False)):
        event = gr.SelectData(None, {"index": 0, "value": title})
        assert tab.switch(event)[tab.timer]["active"] is active


@needs_browser
def test_curves_grow_while_a_run_trains(visit, runs):
    page = visit()
    page.get_by_role("tab", name="Curves").click()
    page.get_by_text("validation 1.250").first.wait_for()
    assert page.locator(".curve svg").count() == 2  # DPO's stand-in has no accuracy
    append(runs / "P-toy", loss=0.75)
    page.get_by_text("validation 0.750").wait_for()
    choose(page, "checkbox", "P-toy", checked=False)
    page.get_by_text("validation 0.750").wait_for(state="detached")

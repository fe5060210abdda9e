"""Curves tab: the measures of the runs, several in one figure, drawn again while a run trains."""

import contextlib
from pathlib import Path

from curves import STAGES, RunCurves, curves_page
from replies import StageModels
from wiring import NO_QUEUE

import gradio as gr
from checkpoint import find_model
from generation.chat import stage_of
from runtime.errors import UserError
from training.metrics import read_metrics

SECONDS_BETWEEN_LOOKS = 5
METRICS = "metrics.jsonl"


class CurvesTab:
    """Components of the tab, and what each event does."""

    TITLE = "Curves"

    def __init__(self, models: StageModels):
        self.models = models
        self.stamp = gr.State("")  # of the files that are shown
        self.runs = gr.CheckboxGroup(
            [], label="Runs", show_label=False, container=False, elem_classes="stages runs"
        )
        self.html = gr.HTML(elem_id="curves")
        self.timer = gr.Timer(SECONDS_BETWEEN_LOOKS, active=False)

        shown = [self.html, self.stamp]
        chosen = {"chosen": self.runs, "stamp": self.stamp}
        self.runs.change(self.draw, inputs_kwargs=chosen, outputs=shown, **NO_QUEUE)
        self.timer.tick(self.look_again, inputs_kwargs=chosen, outputs=[*shown, self.runs], **NO_QUEUE)

    def watch(self, tabs: gr.Tabs) -> None:
        """Look for new measurements while the tab is open, and at once when it opens."""
        tabs.select(self.switch, None, [self.timer, self.runs], **NO_QUEUE)

    def open_page(self) -> dict:
        """Choose the newest run of each stage."""
        runs = self.find_runs()
        newest = {run_stage(run): name for name, run in reversed(runs.items())}
        return {self.runs: gr.update(choices=list(runs), value=list(newest.values()))}

    def switch(self, event: gr.SelectData) -> dict:
        """Start the timer where this tab was opened, stop it where another one was."""
        is_open = event.value == self.TITLE
        return {self.timer: gr.update(active=is_open), self.runs: gr.update(choices=list(self.find_runs()))}

    def look_again(self, *, chosen: list[str], stamp: str) -> dict:
        """Draw the chosen runs if their files have changed, and offer runs that are new."""
        changes = {self.runs: gr.update(choices=list(self.find_runs()))}
        if self._stamp_of(chosen) != stamp:
            changes |= self.draw(chosen=chosen, stamp=stamp)
        return changes

    def draw(self, *, chosen: list[str], stamp: str) -> dict:
        """Draw the chosen runs."""
        runs = self.find_runs()
        curves = [
            RunCurves(name, run_stage(runs[name]), read_metrics(runs[name] / METRICS))
            for name in chosen
            if name in runs
        ]
        return {self.html: curves_page(curves), self.stamp: self._stamp_of(chosen)}

    def find_runs(self) -> dict[str, Path]:
        """Return the folders with metrics by their names, newest first."""
        folders = set(Path(self.models.args.save_checkpoint_dir).glob(f"*/{METRICS}"))
        for folder in self.models.newest_folders().values():
            folders |= {path for path in (folder / METRICS, folder.parent / METRICS) if path.is_file()}
        with contextlib.suppress(FileNotFoundError):  # a run that is renamed at this moment
            newest_first = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
            return {path.parent.name: path.parent for path in newest_first}
        return {}

    def _stamp_of(self, chosen: list[str]) -> str:
        """Return what changes when a file of the chosen runs does."""
        runs = self.find_runs()
        stamps = []
        for name in chosen:
            with contextlib.suppress(KeyError, FileNotFoundError):
                stat = (runs[name] / METRICS).stat()
                stamps.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
        return "; ".join(stamps)


def run_stage(run: Path) -> str:
    """Return the letter of a run's stage: its steps say it, or its name before it has one."""
    with contextlib.suppress(UserError):
        stage = stage_of(find_model(run))
        if stage in STAGES:
            return stage
    return run.name[:1] if run.name[1:2] == "-" and run.name[:1] in STAGES else "P"

"""The picture of a run's losses."""

from pathlib import Path

import matplotlib.figure
import pytest
from matplotlib.image import imread

from runtime.errors import UserError
from training import plots
from training.metrics import Metrics
from training.plots import draw, loss_curves


@pytest.mark.parametrize("splits", [("train", "val"), ("train",)], ids=str)
def test_loss_curves_are_drawn(
    splits: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics(tmp_path, "disabled", {})
    for step in range(1, 5):
        for split in splits:
            metrics.write(step, split, {"loss": 5.0 / step, "tokens": 1000 * step, "lr": 0.1})
    metrics.close()
    figures = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep(figures, matplotlib.figure.Figure.savefig))
    picture = loss_curves(tmp_path)
    assert picture == tmp_path / "loss_curves.png" and picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert imread(picture)[..., :3].min() < 0.5  # there is something on it
    lines = figures[0].axes[0].get_lines()
    assert [line.get_label().split(":")[0] for line in lines] == list(splits)
    for line in lines:
        assert line.get_xdata().tolist() == [1000, 2000, 3000, 4000]
        assert line.get_ydata().tolist() == [5.0 / step for step in range(1, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_curves.png", "metrics.jsonl"]


def keep(figures: list, savefig):
    """savefig that remembers its figure."""

    def save(figure, *args, **options):
        figures.append(figure)
        return savefig(figure, *args, **options)

    return save


def test_the_picture_is_redrawn(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "disabled", {})
    pictures = []
    for step in (1, 2, 3):
        metrics.write(step, "train", {"loss": 1.0 / step, "tokens": step})
        pictures.append(loss_curves(tmp_path).read_bytes())
    metrics.close()
    assert len(set(pictures)) == 3


def test_runs_are_drawn_side_by_side_with_their_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, values in (("P-a", {}), ("D-b", {"accuracy": 0.75})):
        (tmp_path / name).mkdir()
        metrics = Metrics(tmp_path / name, "disabled", {})
        for step in (1, 2):
            metrics.write(step, "val", {"loss": 1.0 / step, "tokens": step, **values})
        metrics.close()
    figures = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep(figures, matplotlib.figure.Figure.savefig))
    picture = draw([tmp_path / "P-a", tmp_path / "D-b"], tmp_path / "both.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    left, right = figures[0].axes
    assert (left.get_title(), right.get_title()) == ("P-a", "D-b")
    assert len(left.get_lines()) == 1 and [line.get_ydata()[-1] for line in right.get_lines()] == [0.5, 0.75]
    monkeypatch.setattr("sys.argv", ["training.plots", "--runs", str(tmp_path / "P-a"), str(tmp_path)])
    with pytest.raises(UserError, match="is not a run folder"):
        plots.main()

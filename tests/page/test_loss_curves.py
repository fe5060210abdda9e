"""Loss curves: lines go through the measured points."""

from loss_curves import HEIGHT, WIDTH, loss_curve

ROWS = [
    {"split": "train", "loss": 3.0, "tokens": 50},
    {"split": "train", "loss": 1.0, "tokens": 100},
    {"split": "val", "loss": 2.0, "tokens": 100},
]


def test_the_curve_goes_through_the_measured_points():
    html = loss_curve("run", ROWS)
    assert f'class="train" points="{WIDTH / 2:.1f},0.0 {WIDTH:.1f},{HEIGHT:.1f}"' in html
    assert f'class="val" points="{WIDTH:.1f},{HEIGHT / 2:.1f}"' in html
    assert 'aria-label="Loss of run: training 1.000, validation 2.000 after 100 tokens"' in html


def test_a_run_without_measurements_has_no_curve():
    html = loss_curve("run", [])
    assert "run: no measurements" in html and "<svg" not in html
    assert loss_curve("run", ROWS[2:]).count("<polyline") == 1

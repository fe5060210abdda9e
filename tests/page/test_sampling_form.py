"""The sampling form: its defaults are the command line's, and its values become valid settings."""

import pytest
from sampling_form import RANGES, args_from_form, sampling_components
from stand_ins import ARGS

from runtime.errors import UserError


def form_values(**changes) -> list:
    """Return the values of an untouched form with some changes."""
    values = {name: getattr(ARGS, name) for name in (*RANGES, "seed")}
    return list((values | changes).values())


def test_the_form_has_the_defaults_of_the_command_line():
    components = sampling_components(ARGS)
    assert [component.label for component in components] == [*RANGES, "seed"]
    assert [component.value for component in components] == form_values()


def test_integers_stay_integers_and_the_seed_may_be_empty():
    args = args_from_form(ARGS, form_values(max_length=20.5, top_k=50.0, seed=None))
    assert args.max_length == 20 and args.seed is None
    assert type(args.max_length) is int and type(args.top_k) is int


def test_the_command_lines_checks_hold():
    with pytest.raises(UserError, match="temperature"):
        args_from_form(ARGS, form_values(temperature=-1))

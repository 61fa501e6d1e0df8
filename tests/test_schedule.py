import pytest
from omegaconf import OmegaConf

from dreamfusion.schedule import Schedule, schedule


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_a_number_is_a_constant(progress):
    assert schedule(7)(progress) == 7.0


@pytest.mark.parametrize(
    ("progress", "value"),
    [(0.0, 1.0), (0.2, 1.0), (0.4, 2.0), (0.5, 2.5), (0.6, 3.0), (0.7, 2.0), (0.8, 1.0), (1.0, 1.0)],
)
def test_values_are_linear_between_points_and_constant_outside(progress, value):
    assert schedule([[0.2, 1.0], [0.6, 3.0], [0.8, 1.0]])(progress) == pytest.approx(value)


def test_the_lowest_and_the_highest_value_are_those_of_the_points():
    peak = schedule([[0.2, 1.0], [0.6, 3.0], [0.8, 0.5]])
    assert (peak.lowest, peak.highest) == (0.5, 3.0)
    assert (schedule(7).lowest, schedule(7).highest) == (7.0, 7.0)


def test_two_points_at_one_progress_are_a_jump_to_the_later_value():
    jump = schedule([[0.5, 1.0], [0.5, 2.0]])
    assert [jump(0.49), jump(0.5), jump(0.51)] == [1.0, 2.0, 2.0]


def test_omegaconf_lists_and_schedules_are_accepted():
    made = schedule(OmegaConf.create({"x": [[0, 1], [1, 2]]}).x)
    assert made == Schedule(((0.0, 1.0), (1.0, 2.0)))
    assert schedule(made) is made


@pytest.mark.parametrize("value", [True, "0.5", None, [[0, "1"]], [[0, True]], [0.1, 0.2], [[0, 1, 2]], float("nan")])
def test_anything_but_a_number_or_a_list_of_pairs_is_refused(value):
    with pytest.raises(TypeError, match="a schedule is"):
        schedule(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0.5, 1], [0.2, 2]], r"sorted by progress, got progress in the order \[0.5, 0.2\]"),
        ([[0, 1], [2000, 2]], r"lies in \[0, 1\], got 2000.0"),
        ([], "at least one"),
    ],
)
def test_bad_points_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        schedule(value)


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
def test_progress_outside_the_run_is_refused(progress):
    with pytest.raises(ValueError, match="progress is"):
        schedule(1.0)(progress)

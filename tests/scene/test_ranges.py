"""Numbers that no scene can have are refused before the first step, in a sentence that says what to type."""

import pytest
from options import option

WRONG = [
    ("background/learned", "background.frequencies", -1),
    ("background/learned", "background.hidden", 0),
    ("background/learned", "background.layers", -1),
    ("background/learned", "background.random_share", 1.5),
    ("background/random", "background.white", 1.5),
    ("background/random", "background.colored", -0.1),
    ("renderer/occupancy", "renderer.threshold", -1),
    ("renderer/occupancy", "renderer.decay", 2.0),
    ("renderer/occupancy", "renderer.warmup", -1),
    ("camera/orbit", "camera.position_jitter", -0.1),
    ("camera/orbit", "camera.look_at_std", -1),
    ("camera/orbit", "camera.up_std", float("nan")),
]


@pytest.mark.parametrize(("choice", "setting", "value"), WRONG)
def test_a_number_out_of_range_is_refused(choice, setting, value):
    changes = {setting.rpartition(".")[2]: value}
    if choice.startswith("renderer"):
        changes["radius"] = 1.0
    with pytest.raises(ValueError, match=rf"^{setting} is {value}; it must be .*: type {setting}="):
        option(choice, **changes)


def test_shares_of_the_background_that_exceed_all_views_together_are_refused():
    with pytest.raises(ValueError, match=r"together above 1; type background\.white="):
        option("background/random", white=0.6, colored=0.5)
    option("background/random", white=0.6, colored=0.4)

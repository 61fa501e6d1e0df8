"""The negative prompt is one text, or one for each text of the prompt."""

import pytest
from omegaconf import OmegaConf
from options import option

from dreamfusion.error import UserError


@pytest.mark.parametrize("given", ["blurry", 3, ["blurry"], OmegaConf.create(["blurry"])])
def test_one_negative_text(given, gaussian_prior):
    prompting = option("prompting/plain", negative=given)
    assert prompting.negatives == [str(given) if isinstance(given, str | int) else "blurry"]
    assert len(prompting.encode(gaussian_prior(), "a cat").negative) == 1


def test_what_has_no_text_to_stand_beside_is_refused(gaussian_prior):
    with pytest.raises(
        UserError, match=r"prompting\.negative has 2 texts; .* type 'prompting\.negative=\"blurry, ugly\"'"
    ):
        option("prompting/plain", negative=OmegaConf.create(["blurry", "ugly"])).encode(gaussian_prior(), "a cat")
    with pytest.raises(ValueError, match="texts by view need prompting=view_dependent: type one text"):
        option("prompting/plain", negative=OmegaConf.create({"front": "blurry"}))

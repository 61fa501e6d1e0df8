import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dreamfusion.guidance
from dreamfusion.diffusion.classifier_free import perpendicular
from dreamfusion.error import UserError
from dreamfusion.guidance.prior import (
    check_groups,
    concatenate_texts,
    empty_branch,
    guided,
    null_branch,
    seen_size,
    text_branch,
)
from dreamfusion.types import Branch, Conditioning, Opposed, TextEmbedding


def test_branches_are_concatenated_in_order():
    first = Branch(TextEmbedding(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 5)))
    second = Branch(TextEmbedding(torch.ones(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 5)))
    text = concatenate_texts([first, second])
    assert text.states[:, 0, 0].tolist() == [0, 0, 1]
    assert text.mask[:, 0].tolist() == [True, True, False]
    assert text.pooled[:, 0].tolist() == [0, 0, 1]


class RecordedPrior:
    """Estimates a fixed random image for each text, by the number that stands for it."""

    def __init__(self):
        self.clean = torch.randn(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.branches = []

    def denoise(self, noisy, timestep, branches):
        self.branches = branches
        return tuple(self.clean[int(branch.text.states[0])] for branch in branches)


def texts(*numbers):
    return TextEmbedding(torch.tensor(numbers).view(-1, 1, 1), torch.ones(len(numbers), 1, dtype=torch.bool))


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_perp_neg_adds_what_is_perpendicular_to_the_text_direction(make_cameras, scale):
    """x_null + s (d + sum_i w_i (e_i - (e_i . d / d . d) d)) with e_i = x_i - x_null (perp-neg)."""
    prior, weights = RecordedPrior(), torch.tensor([[-0.5, -2.0], [0.0, -1.0]])
    conditioning = Conditioning(
        texts(1, 1), texts(0, 0), make_cameras([0.0, 90.0]), opposed=Opposed(texts(2, 2, 3, 3), weights)
    )
    result, of_text = guided(prior, torch.zeros(2, 3, 4, 4), torch.tensor([1, 1]), conditioning, scale)
    assert len(prior.branches) == 4
    for view in range(2):
        null, direction = prior.clean[0, view], prior.clean[1, view] - prior.clean[0, view]
        total = direction.clone()
        for number, weight in ((2, weights[0, view]), (3, weights[1, view])):
            other = prior.clean[number, view] - null
            total += weight * (other - (other * direction).sum() / (direction * direction).sum() * direction)
        torch.testing.assert_close(result[view], null + scale * total, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(of_text[view], null + total, atol=1e-4, rtol=1e-4)


def test_the_prior_looks_at_its_largest_size_that_the_views_fill():
    several, one = SimpleNamespace(resolution=32, sizes=(32, 64, 128)), SimpleNamespace(resolution=64)
    assert [seen_size(several, pixels) for pixels in (16, 32, 63, 64, 100, 128, 512)] == [32, 32, 32, 64, 64, 128, 128]
    assert [seen_size(one, pixels) for pixels in (16, 64, 512)] == [64, 64, 64]


def test_all_branches_have_the_cameras_and_appearance_and_only_the_texts_own_is_conditional(make_cameras):
    cameras, appearance = make_cameras([0.0]), torch.tensor([[0.5, 1.0]])
    said = Conditioning(texts(1), texts(2), cameras, texts(3), appearance)
    branches = [text_branch(said), null_branch(said), empty_branch(said)]
    assert [branch.text.states.item() for branch in branches] == [1, 2, 3]
    assert [branch.unconditional for branch in branches] == [False, True, True]
    assert all(branch.cameras is cameras and branch.appearance is appearance for branch in branches)
    without = empty_branch(Conditioning(texts(1), texts(2), cameras))
    assert (without.text.states.item(), without.unconditional) == (2, True)


def test_perp_neg_with_weights_of_zero_is_plain_guidance(make_cameras):
    prior, cameras = RecordedPrior(), make_cameras([0.0, 90.0])
    plain = Conditioning(texts(1, 1), texts(0, 0), cameras)
    opposed = Conditioning(texts(1, 1), texts(0, 0), cameras, opposed=Opposed(texts(2, 2), torch.zeros(1, 2)))
    noisy, timestep = torch.zeros(2, 3, 4, 4), torch.tensor([1, 1])
    for scale in (1.0, 7.5):
        expected, _ = guided(prior, noisy, timestep, plain, scale)
        torch.testing.assert_close(guided(prior, noisy, timestep, opposed, scale)[0], expected)


def test_cameras_that_are_not_drawn_in_the_priors_groups_are_refused():
    prior = RecordedPrior()
    prior.name, prior.views = "mvdream", 4
    check_groups(prior, 4)
    with pytest.raises(UserError, match=r"camera\.group is 8"):
        check_groups(prior, 8)  # 45 degrees apart
    with pytest.raises(UserError, match=r"mvdream predicts 4 views .* camera.group is 1; type camera=multiview"):
        check_groups(prior, 1)


def test_equal_texts_leave_perp_neg_finite():
    same = torch.ones(1, 3, 4, 4)
    assert torch.equal(perpendicular(same, torch.zeros(1, 3, 4, 4)), same)


def test_importing_the_adapters_imports_no_diffusers_and_no_transformers():
    adapters = [
        f"dreamfusion.guidance.{file.stem}" for file in sorted(Path(dreamfusion.guidance.__path__[0]).glob("*.py"))
    ]
    code = (
        f"import sys, {', '.join(adapters)}, dreamfusion.distillation.sds; "
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

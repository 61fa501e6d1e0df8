import subprocess
import sys

import pytest
import torch

from dreamfusion.diffusion.parameterization import PREDICTIONS, clean_from_noise, noise_from_prediction
from dreamfusion.guidance.prior import concatenate_cameras, concatenate_text
from dreamfusion.types import Cameras, TextEmbedding


def cameras(azimuth):
    b = len(azimuth)
    return Cameras(
        camera_to_world=torch.arange(b * 12.0).view(b, 3, 4),
        fov=torch.full((b,), 40.0),
        azimuth=torch.tensor(azimuth),
        elevation=torch.zeros(b),
        distance=torch.full((b,), 3.0),
        light=torch.zeros(b, 3),
        height=8,
        width=8,
    )


@pytest.fixture
def noised():
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    abar = torch.tensor([0.999, 0.7, 0.2, 0.004], dtype=torch.float64)
    alpha, sigma = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    return x, eps, abar, alpha, sigma


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_of_each_kind_is_the_noise_that_was_added(kind, noised):
    x, eps, abar, alpha, sigma = noised
    prediction = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x, "sample": x}[kind]
    torch.testing.assert_close(noise_from_prediction(kind, prediction, alpha * x + sigma * eps, abar), eps)


def test_the_noise_gives_back_the_clean_image(noised):
    x, eps, abar, alpha, sigma = noised
    torch.testing.assert_close(clean_from_noise(eps, alpha * x + sigma * eps, abar), x)


def test_an_unknown_prediction_type_lists_the_known_ones():
    with pytest.raises(ValueError, match="'flow', expected one of epsilon, v_prediction, sample"):
        noise_from_prediction("flow", torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.tensor([0.5]))


def test_concatenation_keeps_the_order_of_texts_and_cameras():
    first = TextEmbedding(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    second = TextEmbedding(torch.ones(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool))
    text = concatenate_text(first, second)
    assert text.states[:, 0, 0].tolist() == [0, 0, 1]
    assert text.mask[:, 0].tolist() == [True, True, False]
    both = concatenate_cameras(cameras([0.0, 90.0]), cameras([180.0]))
    assert both.azimuth.tolist() == [0, 90, 180]
    assert len(both) == 3
    torch.testing.assert_close(both.camera_to_world[2], both.camera_to_world[0])


def test_importing_the_adapters_imports_no_diffusers_and_no_transformers():
    code = (
        "import sys, dreamfusion.guidance.prior, dreamfusion.guidance.pocket, dreamfusion.guidance.stable_diffusion,"
        "dreamfusion.guidance.deepfloyd, dreamfusion.distillation.sds; "
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

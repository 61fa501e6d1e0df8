from types import SimpleNamespace

import pytest
import torch

from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.mesh.threshold import find_threshold, max_density_per_ray


def fitted(density, opacity):
    threshold, iou = find_threshold(density, opacity)
    return SimpleNamespace(threshold=threshold, iou=iou)


def test_threshold_of_separable_rays_is_the_geometric_mean() -> None:
    fit = fitted(torch.tensor([100.0, 400.0, 4.0, 0.0]), torch.tensor([0.9, 1.0, 0.1, 0.0]))
    assert fit.threshold == pytest.approx(20.0)  # sqrt(100 * 4)
    assert fit.iou == 1.0


def test_overlapping_rays_give_the_known_best_iou() -> None:
    # sorted:  9 visible, 8 hidden, 7 visible, 6 visible, 5 hidden, 1 hidden -> IoU 1/3, 1/4, 2/4, 3/4, 3/5, 3/6
    density = torch.tensor([5.0, 9.0, 7.0, 1.0, 8.0, 6.0])
    opacity = torch.tensor([0.2, 0.9, 0.8, 0.0, 0.4, 0.6])
    fit = fitted(density, opacity)
    assert fit.iou == 0.75
    assert fit.threshold == pytest.approx(30.0**0.5)


def test_threshold_is_at_least_as_good_as_every_candidate() -> None:
    generator = torch.Generator().manual_seed(0)
    density = torch.exp(3.0 * torch.randn(500, generator=generator)).round(decimals=1)  # with ties and zeros
    opacity = torch.sigmoid(density.clamp_min(0.01).log() + torch.randn(500, generator=generator))
    fit = fitted(density, opacity)

    def iou(threshold: float) -> float:
        mesh, render = density > threshold, opacity > 0.5
        return float((mesh & render).sum() / (mesh | render).sum())

    assert iou(fit.threshold) == pytest.approx(fit.iou)
    assert fit.iou == pytest.approx(max(iou(float(candidate)) for candidate in density), abs=1e-6)


def test_equal_densities_are_not_separated() -> None:
    fit = fitted(torch.tensor([5.0, 5.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert fit.iou == 0.5
    assert 1.0 < fit.threshold < 5.0


def test_widest_gap_wins_among_equally_good_ones() -> None:
    density = torch.tensor([1000.0, 900.0, 800.0, 700.0, 1.0])
    opacity = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])  # IoU 1/2, 1/3, 1/4, 2/4, 2/5
    fit = fitted(density, opacity)
    assert fit.iou == 0.5
    assert fit.threshold == pytest.approx(700.0**0.5)


def test_all_visible_rays_give_half_the_smallest_density() -> None:
    fit = fitted(torch.tensor([8.0, 6.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert (fit.threshold, fit.iou) == (pytest.approx(3.0), 1.0)


def test_threshold_of_a_homogeneous_ball_is_half_its_density() -> None:
    # rays past a ball of density 50 and radius 0.5; opaque where 1 - exp(-50 * chord) > 1/2, i.e. nearly to the rim
    offset = torch.linspace(0.0, 1.0, 1001)
    chord = 2.0 * (0.25 - offset**2).clamp_min(0.0).sqrt()
    fit = fitted(50.0 * (chord > 0.0).float(), 1.0 - torch.exp(-50.0 * chord))
    assert fit.threshold == pytest.approx(25.0)
    assert fit.iou > 0.99


def test_empty_renders_are_an_error_that_names_the_remedies() -> None:
    with pytest.raises(EmptyFieldError, match=r"largest opacity over 3 rays is 0\.3.*longer.*export\.threshold"):
        find_threshold(torch.ones(3), torch.tensor([0.1, 0.3, 0.2]))


def test_shapes_and_numbers_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        find_threshold(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="not finite on 1 rays"):
        find_threshold(torch.tensor([1.0, float("inf")]), torch.ones(2))


def test_largest_density_of_packed_samples_is_taken_per_ray() -> None:
    ray = torch.tensor([0, 0, 2, 2, 2])
    result = max_density_per_ray(ray, torch.tensor([1.0, 3.0, 2.0, 9.0, 4.0]), rays=4)
    torch.testing.assert_close(result, torch.tensor([3.0, 0.0, 9.0, 0.0]))

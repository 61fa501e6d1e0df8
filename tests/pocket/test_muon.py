"""Muon: orthogonal updates of matrices and kernels, AdamW for the rest, in one optimizer that resumes."""

import copy

import pytest
import torch
from torch import nn

from dreamfusion.pocket.training import muon
from dreamfusion.pocket.training.muon import MOMENTUM, MuonAdamW, orthogonalized


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def products(request, monkeypatch):
    monkeypatch.setattr(muon, "native_bfloat16", lambda: request.param)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_an_orthogonalised_matrix_has_the_same_vectors_and_singular_values_of_about_one(products, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(1e3 * matrix)
    assert found.shape == matrix.shape and found.dtype == matrix.dtype
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ found @ v.T  # diagonal if the vectors are the same
    large = values > 0.1 * values.max()
    assert core.diagonal()[large].min() > 0.6 and core.diagonal().max() < 1.3
    assert (core - core.diagonal().diag()).abs().max() < 0.1


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 7))


def optimizer_of(module, rate=0.01):
    hidden = [p for p in module.parameters() if p.ndim > 1]
    rest = [p for p in module.parameters() if p.ndim <= 1]
    return MuonAdamW([{"params": rest}, {"params": hidden, "muon": True}], lr=rate, weight_decay=0.1)


def step(module, optimizer, seed):
    images = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    module(images).square().sum().backward()
    optimizer.step()


def test_biases_take_the_steps_of_adamw_and_kernels_momentum_of_the_same_size():
    module = network()
    other, before = copy.deepcopy(module), copy.deepcopy(module)
    optimizer = optimizer_of(module)
    step(module, optimizer, 0)
    step(other, torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1), 0)
    for own, adam, old in zip(module.parameters(), other.parameters(), before.parameters(), strict=True):
        if own.ndim == 1:
            assert torch.equal(own, adam)
            continue
        moved = (own - old * (1 - 0.01 * 0.1)) / 0.01
        assert 0.1 < float(moved.detach().square().mean().sqrt()) < 0.25
        assert (moved * own.grad).sum() < 0


def test_momentum_averages_gradients_and_is_resumed_from_a_stored_state():
    module = network()
    optimizer = optimizer_of(module)
    matrices = [p for p in module.parameters() if p.ndim > 1]
    gradients, before = [], []
    for seed in range(2):
        before = [p.detach().clone() for p in matrices]
        step(module, optimizer, seed)
        gradients.append([p.grad.clone() for p in matrices])
    for matrix, old, first, second in zip(matrices, before, *gradients, strict=True):
        average = MOMENTUM * (1 - MOMENTUM) * first + (1 - MOMENTUM) * second
        torch.testing.assert_close(optimizer.state[matrix]["momentum"], average)
        ahead = ((1 - MOMENTUM) * second + MOMENTUM * average).flatten(1)  # Nesterov's
        update = 0.2 * max(ahead.shape) ** 0.5 * orthogonalized(ahead).view_as(matrix)
        torch.testing.assert_close(matrix.detach(), old * (1 - 0.01 * 0.1) - 0.01 * update, rtol=1e-5, atol=1e-4)
    resumed = copy.deepcopy(module)
    continued = optimizer_of(resumed, rate=1.0)
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(module, optimizer, 3)
    step(resumed, continued, 3)
    for own, other in zip(module.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_closure_that_sets_gradients_to_zero_sets_all_of_them():
    module = network()
    other = copy.deepcopy(module)
    optimizer, continued = optimizer_of(module), optimizer_of(other)
    images = torch.ones(1, 3, 3, 3)

    def closure():
        optimizer.zero_grad()
        loss = module(images).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        loss = optimizer.step(closure)
        continued.zero_grad()
        expected = other(images).square().sum()
        expected.backward()
        continued.step()
        assert torch.equal(loss, expected)


def test_parameters_without_a_gradient_stay_as_they_are():
    module = network()
    module[0].requires_grad_(False)
    kept = module[0].weight.clone()
    optimizer = optimizer_of(module)
    step(module, optimizer, 0)
    assert torch.equal(module[0].weight, kept)
    assert [group["muon"] for group in optimizer.param_groups] == [False, True]


def test_a_state_of_adamw_is_continued():
    module = network()
    other = copy.deepcopy(module)
    plain = torch.optim.AdamW(module.parameters(), lr=0.01)
    step(module, plain, 0)
    step(other, torch.optim.AdamW(other.parameters(), lr=0.01), 0)
    continued = MuonAdamW(other.parameters(), lr=0.01)
    continued.load_state_dict(copy.deepcopy(plain.state_dict()))
    step(module, plain, 1)
    step(other, continued, 1)
    for own, expected in zip(other.parameters(), module.parameters(), strict=True):
        assert torch.equal(own, expected)


def test_a_step_whose_scaled_gradients_overflow_is_skipped():
    """As with mode.precision=16-mixed: the scale is lowered, weights and momentum stay."""
    module = network()
    matrices, rest = ([p for p in module.parameters() if (p.ndim > 1) == many] for many in (True, False))
    optimizer = MuonAdamW([{"params": rest}, {"params": matrices, "muon": True}], lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    for overflow in (True, False):
        before = [p.detach().clone() for p in module.parameters()]
        optimizer.zero_grad()
        scaler.scale(module(torch.ones(1, 3, 3, 3)).sum() * 1e3).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update(1.0)
        assert all(torch.equal(p, old) == overflow for p, old in zip(module.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in module.parameters())

"""A scene trained with one backend goes on with any other: the same parameters, with the same meaning."""

import io

import pytest
import torch
from options import available

from dreamfusion.ops import backend
from dreamfusion.scene.shading import LAMBERTIAN

KERNELS = [k for k in available("hash_encode", torch.device("cpu")) if k != "torch"]


@pytest.fixture
def trained(make_scene, tiny_field, cameras_at, monkeypatch):
    """The checkpoint after a lit step with each of the named backends in turn, from one that was saved and loaded."""

    def make(*names):
        saved = None
        for name in names:
            monkeypatch.setenv("DREAMFUSION_OPS", name)
            scene = make_scene(tiny_field(strong=True, precision="float32"))
            if saved is not None:
                saved.seek(0)
                scene.load_state_dict(torch.load(saved, weights_only=True))
            out = scene.render(cameras_at([30.0]), LAMBERTIAN)
            ((out.rgb - 0.2).square().mean() + out.opacity.mean()).backward()
            with torch.no_grad():
                for parameter in scene.field.parameters():
                    parameter -= 0.5 * parameter.grad
            saved = io.BytesIO()
            torch.save(scene.state_dict(), saved)
        return scene.state_dict()

    yield make
    backend._choose.cache_clear()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_checkpoint_goes_on_with_another_backend_as_with_its_own(trained, kernel):
    expected = trained("torch", "torch", "torch")
    changed = trained("torch", kernel, "torch")
    assert changed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(changed[name], value, rtol=1e-3, atol=1e-5, msg=name)

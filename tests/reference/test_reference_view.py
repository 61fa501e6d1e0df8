"""The reference view: its terms in closed form, the camera of its settings, and its place in the training step."""

import lightning as L
import numpy as np
import pytest
import torch
from options import make_sds, option
from training import ORBIT, assert_same, state, train

from dreamfusion.error import UserError
from dreamfusion.report.picture import write_rgba
from dreamfusion.training.callbacks import Checkpoints
from dreamfusion.types import RenderOutput

SIZE = 16


def reference(folder, image=None, depth=None, normal=None, read=True, **changes):
    """A view of the picture (H, W, 4) in [0, 1], as the option has it, with its object left where it is."""
    paths = {}
    for name, pixels in (("image", image), ("depth", depth), ("normal", normal)):
        paths[name] = None if pixels is None else str(folder / f"{name}.png")
        if pixels is not None:
            write_rgba(np.rint(pixels * 255).astype(np.uint8), folder / f"{name}.png")
    files = {"image": paths["image"] or "gone.png", "depth": paths["depth"], "normal": paths["normal"]}
    settings = {"size": SIZE, "orbit": ORBIT, "read": read, "box": [0.25, 0.25, 0.75, 0.75]} | files
    return option("reference/picture")(**(settings | changes))


def square(color=(0.2, 0.4, 0.6), size=SIZE):
    """The middle quarter in one colour, transparent around it."""
    pixels = np.zeros((size, size, 4))
    pixels[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = (*color, 1.0)
    return pixels


class Shows:
    """A scene that looks as given from everywhere."""

    def __init__(self, pixels, depth=None, normal=None):
        image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
        self.color, self.opacity, self.depth, self.normal = image[:, :3], image[:, 3:], depth, normal

    def render(self, cameras, with_normal=False, background=None):
        over = self.color * self.opacity + background.color[:, None, None] * (1 - self.opacity)
        depth = self.opacity if self.depth is None else self.depth
        return RenderOutput(over, background.color[None], self.opacity, depth, self.normal if with_normal else None)


def test_a_scene_that_looks_like_the_picture_has_no_loss(tmp_path):
    terms = reference(tmp_path, square())(Shows(square()), 0.0)
    assert terms.keys() == {"reference_color", "reference_mask"}
    assert max(terms.values()) < 1e-6


def test_the_terms_are_weighted_means_of_squared_differences(tmp_path):
    view = reference(tmp_path, square(), weights={"color": [[0, 10.0], [1, 20.0]], "mask": 3.0})
    other = view(Shows(square((0.2, 0.4, 0.9))), 0.5)
    assert other["reference_color"] == pytest.approx(15 * 0.3**2 / 3 / 4, rel=1e-3)  # one channel of a quarter
    assert other["reference_mask"] < 1e-6
    empty = view(Shows(np.zeros((SIZE, SIZE, 4))), 0.0)
    assert empty["reference_mask"] == pytest.approx(3 / 4)
    assert empty["reference_color"] == pytest.approx(10 * (0.3**2 + 0.1**2 + 0.1**2) / 3 / 4, rel=1e-3)  # from grey
    assert reference(tmp_path, square(), weights={"color": 0.0})(Shows(square()), 0.0) == {}


def test_depths_are_compared_without_scale_and_offset_and_only_on_the_object(tmp_path):
    ramp = np.ones((SIZE, SIZE, 4))
    ramp[..., :3] = (np.arange(SIZE) / SIZE)[:, None, None]
    view = reference(tmp_path, square(), depth=ramp, weights={"depth": 2.0})
    seen = torch.arange(SIZE).float().view(1, 1, SIZE, 1).expand(1, 1, SIZE, SIZE)
    inside = torch.from_numpy(square()[..., 3]) > 0
    near = torch.where(inside, 2.5 + 0.1 * seen, 99.0)
    assert view(Shows(square(), near), 0.0)["reference_depth"] == pytest.approx(0.0, abs=1e-3)
    assert view(Shows(square(), 5 - near), 0.0)["reference_depth"] == pytest.approx(4.0, abs=1e-3)
    flat = torch.ones(1, 1, SIZE, SIZE, requires_grad=True)
    view(Shows(square(), flat), 0.0)["reference_depth"].backward()
    assert flat.grad.isfinite().all()


def test_normals_are_compared_in_the_cameras_axes(tmp_path):
    to_camera = np.ones((SIZE, SIZE, 4)) * (0.5, 0.5, 1.0, 1.0)
    view = reference(tmp_path, square(), normal=to_camera, weights={"normal": 1.0}, azimuth=90.0, elevation=0.0)
    for world, loss in (((1, 0, 0), 0.0), ((0, 1, 0), 1.0), ((-1, 0, 0), 2.0)):
        normal = torch.tensor(world).float().view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
        assert view(Shows(square(), normal=normal), 0.0)["reference_normal"] == pytest.approx(loss, abs=0.02)


def test_the_camera_is_the_front_of_the_training_cameras_unless_set(tmp_path):
    def pose(**changes):
        camera = reference(tmp_path, square(), **changes).camera
        return [round(float(value), 3) for value in (camera.azimuth, camera.elevation, camera.distance, camera.fov)]

    middle = ORBIT.view(torch.zeros(1), 15.0, SIZE, SIZE)
    assert pose() == [0, 15, 3, round(float(middle.fov), 3)]
    assert pose(azimuth=30, elevation=-5.0, distance=2.0, fov=50.0) == [30, -5, 2, 50]
    (tmp_path / "image.png").unlink()
    assert reference(tmp_path, read=False).rgb.shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elevation": 91.0}, r"reference\.elevation is 91\.0; allowed are -90 to 90 degrees"),
        ({"distance": 0.0}, r"reference\.distance is 0\.0 .* must be above 0"),
        ({"fov": 180.0}, r"reference\.fov 180\.0; .* between 0 and 180"),
        ({"every": 0}, r"reference\.every is 0; it must be a whole number of at least 1"),
        ({"fill": 3.0}, r"reference\.fill is 3\.0; allowed are 0\.1 to 1"),
        ({"box": [0.5, 0.1, 0.4, 0.9]}, r"reference\.box is \[0\.5, 0\.1, 0\.4, 0\.9\]; type left, top, right, bottom"),
        ({"weights": {"color": -1.0}}, r"reference\.weights\.color is -1\.0; terms are color, mask, depth, normal"),
        ({"depth": np.ones((9, 20, 4))}, r"depth\.png has 20 x 9 pixels"),
        ({"depth": np.ones((20, 20, 4))}, r"depth\.png has another size than image="),
    ],
)
def test_settings_that_cannot_be_are_named(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        reference(tmp_path, square(), **changes)


class SaveHalf(L.Callback):
    """Save after step 2; every step has the view's terms, those of the last step that used it."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx):
        terms = {name for name in trainer.callback_metrics if "reference" in name}
        assert terms == {"loss/reference_color", "loss/reference_mask"}
        if trainer.global_step == 2:
            Checkpoints(self.path, 0).save(trainer)


def test_a_run_with_the_view_resumes_bit_for_bit_without_the_file(make_system, tmp_path):
    half, whole, resumed = (tmp_path / f"{name}.ckpt" for name in ("half", "whole", "resumed"))
    system = make_system(reference=reference(tmp_path, square(), every=2))
    Checkpoints(whole, 0).save(train(system, tmp_path, SaveHalf(half), steps=4))
    (tmp_path / "image.png").unlink()
    torch.manual_seed(99)  # the global generator must have no effect
    again = make_system(reference=reference(tmp_path, every=2, read=False))
    Checkpoints(resumed, 0).save(train(again, tmp_path, resume=half, steps=4))
    assert_same(state(whole), state(resumed))
    assert np.array_equal(again.reference.picture(), np.rint(square() * 255))
    plain = make_system()
    train(plain, tmp_path, steps=4)
    assert not torch.equal(plain.scene.field.table, system.scene.field.table)


def test_a_prior_that_looks_at_pictures_sees_the_view_over_white_before_the_first_step(
    make_system, gaussian_prior, tmp_path
):
    seen = []

    class Looking(gaussian_prior):
        def look_at(self, rgb, camera):
            seen.append((rgb, camera))

    system = make_system(distillation=make_sds(Looking()), reference=reference(tmp_path, square(), azimuth=40.0))
    train(system, tmp_path, steps=1)
    ((rgb, camera),) = seen
    assert rgb[0, :, 0, 0].tolist() == [1, 1, 1] and rgb[0, :, 8, 8].tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert float(camera.azimuth) == pytest.approx(40)


def test_a_prior_looks_at_the_picture_in_its_own_size(tmp_path, make_system):
    fine = np.zeros((64, 64, 4))
    fine[16:48, 16:48] = (0.2, 0.4, 0.6, 1.0)
    fine[16:48:2, 16:48] = (1.0, 1.0, 1.0, 1.0)  # stripes that the view's 16 pixels cannot hold
    seen = reference(tmp_path, fine, shown=64).for_prior()
    assert seen.shape == (1, 3, 64, 64) and (seen[0, 0, 16] - seen[0, 0, 17]).abs().max() > 0.7
    assert reference(tmp_path, fine).for_prior().shape == (1, 3, SIZE, SIZE)
    first, again = reference(tmp_path, fine, shown=64), reference(tmp_path, shown=64, read=False)
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.for_prior(), seen)


def test_a_checkpoint_of_before_shows_the_prior_the_view(tmp_path):
    view = reference(tmp_path, square(), shown=32)
    state = {name: value for name, value in view.state_dict().items() if name != "shown"}
    again = reference(tmp_path, shown=32, read=False)
    again.load_state_dict(state)
    assert again.for_prior()[0, :, 16, 16].tolist() == pytest.approx([0.2, 0.4, 0.6], abs=0.01)

"""Training of the pocket prior with the code and hooks of `mode=pretrain`, on a small network."""

import csv
import json
import logging
import shutil
from functools import partial, partialmethod
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from options import option, predict
from PIL import Image
from sets import write_set
from test_denoiser import SMALL, TINY

from dreamfusion.error import GuidanceError, UserError
from dreamfusion.mode import pretrain
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.data.batches import Appearance, RenderBatches
from dreamfusion.pocket.data.names import read_names
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.pocket.training import assemble, averaging
from dreamfusion.pocket.training.assemble import Begun, begin_from
from dreamfusion.pocket.training.errors import NOISE_LEVELS
from dreamfusion.pocket.training.naming import fit_names
from dreamfusion.pocket.training.pretraining import PocketPretraining
from dreamfusion.runs.lock import Locked, locked
from dreamfusion.types import Cameras

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
]
PROMPTS = ["a cat", "a red ball"]
COARSE_ALONE = OmegaConf.create({"every": None})


def named(*subjects):
    return {subject: subject for subject in subjects}


@pytest.fixture(scope="module")
def encoder():
    """The frozen text encoder, which takes a second to load."""
    return TextEncoder.load(WEIGHTS / "text_encoder")


@pytest.fixture(scope="module")
def fit_names_once():
    """`fit_names`, which always gives the same weights for the same names, computed once for each."""
    fitted = {}

    def fit(classify, encoder, outputs):
        names = tuple(outputs.items()), classify.out_features
        if names not in fitted:
            correct = fit_names(classify, encoder, outputs)
            fitted[names] = correct, classify.weight.detach().clone(), classify.bias.detach().clone()
        correct, weight, bias = fitted[names]
        with torch.no_grad():
            classify.weight.copy_(weight)
            classify.bias.copy_(bias)
        return correct

    return fit


@pytest.fixture
def train(renders_folder, encoder, fit_names_once, tmp_path, monkeypatch):
    """Run `mode=pretrain` in a folder up to a step, with samples of two steps; returns the last checkpoint."""
    monkeypatch.setattr(TextEncoder, "load", lambda folder: encoder)
    monkeypatch.setattr(assemble, "fit_names", fit_names_once)
    monkeypatch.setattr(PocketPretraining, "sample_sheet", partialmethod(PocketPretraining.sample_sheet, steps=2))

    def run(
        max_steps,
        name="run",
        renders=renders_folder,
        libraries=(),
        minutes=1000.0,
        start=None,
        alone=0,
        settings=None,
        **changes,
    ):
        module = partial(
            PocketPretraining,
            unet=TINY,
            unshuffle=8,
            warmup_steps=3,
            high_noise=0.5,
            text_dropout=0.1,
            camera_dropout=0.2,
            sheet_prompts=PROMPTS,
            sheet_scale=2.0,
            proxy_steps=alone,
            **{"learning_rate": 3e-3, "weight_decay": 0.01, "proxy_widths": SMALL, **(settings or {})},
        )
        often = {
            "max_hours": None,
            "batch_size": 4,
            "validation_size": 6,
            "validation_every": 1000,
            "fine": COARSE_ALONE,
            **changes,
        }
        pretrain.run(
            OmegaConf.create({"seed": 0}),
            libraries=libraries,
            renders=str(renders),
            folder=str(tmp_path / name),
            checkpoint_minutes=minutes,
            max_steps=max_steps,
            ema_decay=0.8,
            precision="32-true",
            appearance=Appearance(),
            emphasis=None,
            module=module,
            names=None,
            views=24,
            cameras_each=2,
            start=start,
            **often,
        )
        return torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=False)

    return run


def assert_same_training(one, other):
    assert one["global_step"] == other["global_step"]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items()), part
    moments, others = (c["optimizer_states"][0]["state"] for c in (one, other))
    for index, state in moments.items():
        assert all(torch.equal(value, others[index][key]) for key, value in state.items())
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert one["callbacks"] == other["callbacks"]


@pytest.mark.parametrize("minutes", [1000.0, 0.0], ids=["at_the_end", "at_each_step"])
def test_an_interrupted_training_resumes_bit_for_bit(train, minutes, monkeypatch):
    drawn = []
    draw = RenderBatches.draw
    monkeypatch.setattr(RenderBatches, "draw", lambda self, step: drawn.append(step) or draw(self, step))
    whole = train(6, "whole", minutes=minutes)
    used = sorted(set(drawn))
    drawn.clear()
    half = train(3, "parts", minutes=minutes)
    assert half["global_step"] == 3
    assert not torch.equal(*(next(iter(half[part].values())) for part in ("state_dict", "current_model_state")))
    resumed = train(6, "parts", minutes=minutes)
    assert sorted(set(drawn)) == used
    assert_same_training(resumed, whole)


def test_a_training_that_begins_coarse_with_muon_resumes_bit_for_bit(train, tmp_path, monkeypatch, caplog):
    seen = []
    caplog.set_level(logging.WARNING, "dreamfusion.mode.pretrain")
    step = PocketPretraining.training_step

    def watched(self, batch, index):
        loss = step(self, batch, index)
        seen.append((batch.images.shape[-1], self.model.feature_volume.halve))
        return loss

    monkeypatch.setattr(PocketPretraining, "training_step", watched)
    fine = OmegaConf.create({"every": 2, "batch_size": 2, "validation_size": 2})
    settings = {"coarse_steps": 3, "muon": True, "proxy_widths": SMALL | {"rays": SMALL["voxels"] // 2}}
    given = {"renders": write_set(tmp_path / "fine", size=128), "fine": fine, "settings": settings}
    whole = train(6, "whole", **given)
    assert seen == [(64, True)] * 3 + [(128, False), (64, False), (128, False)]
    train(2, "parts", **given)
    assert_same_training(train(6, "parts", **given), whole)
    seen.clear()
    caplog.clear()
    train(1, "started", start=str(tmp_path / "whole" / "weights"), **given)
    train(2, "started", **given)  # resumed without mode.start
    assert seen == [(64, False), (128, False)], "a trained decoder does not repeat its voxels"
    assert not caplog.text
    train(3, "short", **given)
    assert "all mode.max_steps=3 steps are of images of the smaller size" in caplog.text


def test_the_hours_of_earlier_sessions_do_not_count(train, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=lambda: now[0]))
    step = PocketPretraining.training_step

    def slow(self, batch, index):
        now[0] += 1800
        return step(self, batch, index)

    monkeypatch.setattr(PocketPretraining, "training_step", slow)
    steps = [train(9, max_hours=1)["global_step"] for _ in range(3)]
    assert steps[0] > 0 and [later - earlier for earlier, later in pairwise(steps)] == [steps[0]] * 2


def test_a_training_at_work_is_not_joined_by_another(train, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(Locked, match="another process is running in"):
        train(1, "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(train, tmp_path, caplog):
    train(4, minutes=0.0)
    (last,) = tmp_path.glob("*/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:-1000])
    assert train(6, minutes=0.0)["global_step"] == 6
    assert "last.ckpt cannot be read as a checkpoint" in caplog.text
    for path in last.parent.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; move the folder away to begin again"):
        train(7)


def test_start_weights_do_not_join_a_training_that_began_otherwise(train, tmp_path):
    train(1, "first")
    start = str(tmp_path / "first" / "weights")
    with pytest.raises(
        UserError, match=r"began from random weights; name another mode\.folder, or type mode\.start=null"
    ):
        train(2, "first", start=start)
    train(1, "second", start=start)
    train(2, "second", start=start)  # the same command goes on
    assert train(3, "second")["global_step"] == 3


def test_a_checkpoint_of_another_optimizer_is_refused_with_what_to_type(train):
    train(1)
    with pytest.raises(UserError, match=r"last\.ckpt was trained with mode\.module\.muon=false: type that to resume"):
        train(2, settings={"muon": True})


def test_a_checkpoint_written_during_training_resumes_bit_for_bit(train, tmp_path, monkeypatch):
    """As after a killed process: no hook of the end of training has run."""
    import lightning as L

    save = L.Trainer.save_checkpoint
    kept = tmp_path / "killed" / "checkpoints" / "last.ckpt"

    def save_and_keep(self, path, *args):
        save(self, path, *args)
        if self.global_step == 2 and not kept.exists():
            save(self, kept, *args)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", save_and_keep)
    whole = train(5, "whole", minutes=0.0, validation_every=4)
    resumed = train(5, "killed", minutes=0.0, validation_every=4)
    assert_same_training(resumed, whole)
    # validation runs at the same steps with the same averaged weights
    sheets = [read_image(tmp_path / run / "samples" / "0000004.png") for run in ("whole", "killed")]
    np.testing.assert_array_equal(*sheets)


def test_a_checkpoint_with_the_keys_of_earlier_code_resumes_bit_for_bit(train, tmp_path):
    whole = train(6, "whole")
    half = train(3, "parts")
    for weights in ("state_dict", "current_model_state"):
        half[weights] = {key.replace(".feature_volume.", ".sketch."): value for key, value in half[weights].items()}
    half["seen"]["sketch_images"] = half["seen"].pop("proxy_images")
    for part in ("subjects", "start"):
        del half[part]
    for group in half["optimizer_states"][0]["param_groups"]:
        del group["muon"]
    torch.save(half, tmp_path / "parts" / "checkpoints" / "last.ckpt")
    resumed = train(6, "parts")
    assert_same_training(resumed, whole)
    assert resumed["seen"].keys() == whole["seen"].keys()


def test_a_resumed_training_takes_the_rates_of_its_settings(train):
    train(3, alone=5)
    lower = {"learning_rate": 1.5e-3, "proxy_learning_rate": 1e-3, "code_learning_rate": 2.0, "weight_decay": 0.02}
    resumed = train(4, settings=lower, alone=5)
    (schedule,), groups = resumed["lr_schedulers"], resumed["optimizer_states"][0]["param_groups"]
    assert schedule["base_lrs"] == [1.5e-3, 3e-3] and schedule["_last_lr"] == pytest.approx([1e-3, 2e-3])
    assert [group["lr"] for group in groups] == schedule["_last_lr"]
    assert [group["weight_decay"] for group in groups] == [0.02, 0.0]


def test_codes_are_fitted_unless_a_training_has_them(train, tmp_path, monkeypatch):
    fitted = []
    begin = assemble.begin_codes
    monkeypatch.setattr(assemble, "begin_codes", lambda codes, *given: fitted.append(begin(codes, *given)))
    train(1, "first")
    train(2, "first")
    assert len(fitted) == 1
    start = tmp_path / "first" / "weights"
    train(1, "same", start=str(start))
    assert len(fitted) == 1
    train(1, "wider", start=str(start), settings={"proxy_widths": SMALL | {"code": 2 * SMALL["code"]}})
    assert len(fitted) == 2, "codes of another width do not fit"


def test_weights_that_are_not_finite_end_the_training_and_replace_no_file(train, tmp_path, monkeypatch):
    kept = train(3)
    weights = (tmp_path / "run" / "weights" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    step = PocketPretraining.training_step
    monkeypatch.setattr(PocketPretraining, "training_step", lambda *given: step(*given) * float("nan"))
    monkeypatch.setattr(averaging, "CHECKED_EVERY", 2)
    with pytest.raises(UserError, match=r"not finite at step 4; .*last\.ckpt keeps those before: lower mode\.module"):
        train(9)
    assert_same_training(kept, torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=False))
    assert (tmp_path / "run" / "weights" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    with pytest.raises(UserError, match=r"not finite at step 1; there is no checkpoint yet"):
        train(1, name="other")


def test_the_loss_falls_on_a_handful_of_models(train, tmp_path):
    train(40, batch_size=8, validation_every=10, validation_size=16)
    with (tmp_path / "run" / "metrics" / "from_step_0" / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["validation/mse_t700"]]
    assert [int(row["step"]) for row in rows] == [9, 19, 29, 39]
    for level in NOISE_LEVELS:
        first, *_, last = (float(row[f"validation/mse_t{level}"]) for row in rows)
        assert last < 0.8 * first, level


def test_the_output_folder_is_a_prior_with_vocabulary_and_sample_sheet(train, tmp_path, caplog):
    checkpoint = train(6, validation_every=3)
    sheet = read_image(tmp_path / "run" / "samples" / "0000003.png")
    assert sheet.shape == (64, 8 * 64, 3)  # two prompts from four sides
    assert sheet.std() > 1
    prior = option("guidance/pocket", weights=str(tmp_path / "run" / "weights"))
    averaged = {k.removeprefix("model.unet."): v for k, v in checkpoint["state_dict"].items() if "unet" in k}
    for name, value in prior.model.unet.state_dict().items():
        torch.testing.assert_close(value, averaged[name].half().float(), atol=0, rtol=0)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prior.warn_if_unknown("a striped box")
        assert not caplog.records
        prior.warn_if_unknown("the eiffel tower")
    assert "3 known objects" in caplog.text
    one = prior.encode_text(["a cat"])
    assert predict(prior, torch.zeros(1, 3, 64, 64), torch.tensor([500]), one, one_camera()).shape == (1, 3, 64, 64)


def test_both_sizes_train_together_and_are_validated_apart(train, tmp_path):
    large = write_set(tmp_path / "large", size=128)
    fine = OmegaConf.create({"every": 2, "batch_size": 4, "validation_size": 4})
    train(4, renders=large, validation_every=4, fine=fine)
    with (tmp_path / "run" / "metrics" / "from_step_0" / "metrics.csv").open() as lines:
        (row,) = [row for row in csv.DictReader(lines) if row["validation/mse_t700"]]
    assert all(float(row[f"validation/mse_{name}{size}"]) > 0 for name in ("proxy", "t900") for size in ("", "_128"))
    with pytest.raises(UserError, match="64 pixels a side, expected 128"):
        train(4, "other", fine=fine)


def test_the_feature_volume_trains_alone_first_and_then_with_the_unet(train, tmp_path):
    alone = train(4, alone=4)["current_model_state"]
    torch.manual_seed(0)
    fresh = PocketModel.create(TINY, named(*"abcd"), 8, **SMALL).state_dict()
    moved = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], alone[f"model.{name}"])}
    assert moved == {"feature_volume"}
    together = train(8, alone=4)["current_model_state"]
    assert not torch.equal(together["model.unet.conv_in.weight"], alone["model.unet.conv_in.weight"])


def test_start_weights_contribute_their_counts(train, tmp_path):
    train(6, "first", validation_every=3, alone=2)
    seen = json.loads((tmp_path / "first" / "weights" / "training.json").read_text())
    hours = seen.pop("hours")
    assert seen == {"images": 16, "proxy_images": 8} and hours > 0
    assert (
        "16 images, and 8 for the\n  feature volume alone, in 0.0 hours."
        in (tmp_path / "first/weights/README.md").read_text()
    )
    start = str(tmp_path / "first" / "weights")
    train(3, "second", validation_every=3, start=start, alone=2)
    train(6, "second", validation_every=3, alone=2)  # interrupted and resumed
    seen = json.loads((tmp_path / "second" / "weights" / "training.json").read_text())
    assert seen.pop("hours") > hours and seen == {"images": 16 + 16, "proxy_images": 8 + 8}
    train(8, "second", validation_every=2, alone=20)  # with the feature volume alone again
    seen = json.loads((tmp_path / "second" / "weights" / "training.json").read_text())
    assert seen.pop("hours") > hours and seen == {"images": 16 + 16, "proxy_images": 8 + 8 + 8}
    with pytest.raises(GuidanceError, match=r"mode.start=.*gone holds no weights"):
        train(3, "third", start=str(tmp_path / "gone"))


def test_codes_of_start_weights_are_matched_by_model_name(tmp_path):
    torch.manual_seed(0)
    PocketModel.create(TINY, named("cat", "dog"), 8, **SMALL).save(tmp_path)
    start = PocketModel.load(tmp_path).feature_volume
    model = PocketModel.create(TINY, named("horse", "dog", "cat"), 8, **SMALL)
    fresh = model.feature_volume.codes[0].clone()
    begin_from(model, tmp_path)
    for own, other in ((2, 0), (1, 1)):
        assert torch.equal(model.feature_volume.codes[own], start.codes[other])
    torch.testing.assert_close(model.feature_volume.codes[0], fresh + start.codes.mean(0))  # unknown to the start
    assert torch.equal(model.feature_volume.paint.weight, start.paint.weight)


def test_start_weights_that_are_pickled_or_broken_are_refused_and_execute_nothing(tmp_path):
    model = PocketModel.create(TINY, named("cat"), 8, **SMALL)
    model.save(tmp_path)
    (weights,) = (tmp_path / "unet").glob("*.safetensors")
    pickled = weights.with_name("diffusion_pytorch_model.bin")
    pickled.write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V" + str(tmp_path / "owned").encode() + b"\ntRtR.")
    for damage in (weights.unlink, lambda: weights.write_bytes(b"x"), (tmp_path / "unet" / "config.json").unlink):
        damage()
        with pytest.raises(GuidanceError, match=r"^mode.start=.* holds no weights to begin from: "):
            begin_from(model, tmp_path)
    model.save(tmp_path)
    (tmp_path / "training.json").write_text("[")
    with pytest.raises(GuidanceError, match=r"^mode.start=.* holds no weights to begin from: Expecting value"):
        begin_from(model, tmp_path)
    assert not (tmp_path / "owned").exists()


def test_codes_of_another_size_keep_their_random_values_and_the_name_classifier_is_kept(tmp_path):
    start = PocketModel.create(TINY, named("cat", "dog"), 8, **SMALL)
    torch.nn.init.normal_(start.feature_volume.classify.weight)
    start.save(tmp_path)
    other = PocketModel.create(TINY, named("cat", "dog"), 8, **(SMALL | {"code": 2 * SMALL["code"]}))
    codes = other.feature_volume.codes.clone()
    fitted = begin_from(other, tmp_path).names
    assert fitted and torch.equal(other.feature_volume.codes, codes)
    kept, given = (model.feature_volume.classify.weight for model in (other, start))
    torch.testing.assert_close(kept, given, atol=1e-3, rtol=1e-3)
    fitted = begin_from(PocketModel.create(TINY, named("dog", "cat"), 8, **SMALL), tmp_path).names
    assert not fitted  # its outputs are in another order


def test_start_weights_without_a_volume_initialise_the_unet_alone(tmp_path):
    model = PocketModel.create(TINY, named("cat"), 8, **SMALL)
    model.save(tmp_path)
    shutil.rmtree(tmp_path / "sketch")
    (tmp_path / "training.json").write_text(json.dumps({"images": 640, "proxy_images": 64}))
    other = PocketModel.create(TINY, named("cat"), 8, **SMALL)
    codes = other.feature_volume.codes.clone()
    assert begin_from(other, tmp_path) == Begun({"images": 640, "proxy_images": 0})
    assert torch.equal(other.unet.conv_in.weight, model.unet.conv_in.weight.half().float())
    assert torch.equal(other.feature_volume.codes, codes)


def test_the_learning_rate_warms_up_twice_and_cools_down():
    module = PocketPretraining(
        named("a"), TINY, 8, 1e-3, 10, 0.0, 0.0, 0.0, 0.0, [], sheet_scale=1.0,
        proxy_steps=100, proxy_learning_rate=3e-3, cooldown=(300, 400),
    )  # fmt: skip
    factors = [module._learning_rate_factor(step) for step in (0, 9, 99, 100, 109, 300, 350, 400, 500)]
    assert factors == pytest.approx([0.3, 3.0, 3.0, 0.1, 1.0, 1.0, 0.5, 0.0, 0.0])


def read_image(path):
    with Image.open(path) as image:
        return np.asarray(image)


def one_camera():
    one = torch.ones(1)
    return Cameras(torch.zeros(1, 3, 4), 40 * one, 0 * one, 15 * one, 3 * one, torch.zeros(1, 3), 64, 64)


def test_the_configured_network_can_be_saved(compose_config, tmp_path):
    """diffusers saves the configuration as JSON, which does not support OmegaConf containers."""
    small = ["block_out_channels=[16,16,16]", "attention_head_dim=8", "norm_num_groups=8", "cross_attention_dim=16"]
    cfg = compose_config("mode=pretrain", *(f"mode.module.unet.{change}" for change in small))
    module = instantiate(cfg.mode.module)(subjects=named("a"))
    module.model.save(tmp_path)
    assert PocketModel.load(tmp_path).unet.config.block_out_channels == [16, 16, 16]


def test_training_without_a_text_encoder_says_what_to_call():
    module = PocketPretraining(named("a"), TINY, 8, 1e-3, 1, 0.0, 0.0, 0.0, 0.0, [], sheet_scale=1.0)
    with pytest.raises(RuntimeError, match="attach"):
        module._encode(["a cat"])


def test_a_missing_library_is_an_error_that_says_how_to_get_it(train, tmp_path):
    with pytest.raises(UserError, match=r"gone.sh3f does not exist.*make pretrain-data"):
        train(1, renders=tmp_path / "none", libraries=[str(tmp_path / "gone.sh3f")])
    assert list(tmp_path.iterdir()) == []


def test_a_broken_library_is_an_error_and_leaves_no_files(train, tmp_path):
    broken = tmp_path / "broken.sh3f"
    broken.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"broken.sh3f is not a readable zip file"):
        train(1, renders=tmp_path / "none", libraries=[str(broken)])
    assert list(tmp_path.iterdir()) == [broken]


def test_names_are_read_with_their_library_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# a comment\ncat = sitting cat, cat\n\nhorse\n")
    assert read_names(file) == {"sitting cat": "cat", "cat": "cat", "horse": "horse"}

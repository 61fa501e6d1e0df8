"""Configurations from untrusted files: no code runs, no environment variable is read, no foreign class is built."""

import copy
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dreamfusion import untrusted
from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION
from dreamfusion.pocket.training.assemble import resumed_at
from dreamfusion.untrusted import UntrustedError, checked_configuration

SOURCE = Path("sent.ckpt")
CAMERA = {"_target_": "dreamfusion.camera.orbit.Orbit", "elevation": [-15, 75], "up_std": 0.0}


def test_loading_a_checkpoint_of_pretraining_executes_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"global_step": 3, "payload": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil\.ckpt cannot be read as a checkpoint"):
        resumed_at(tmp_path / "evil.ckpt", [], False)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "lightning.Trainer",  # allowed as the trainer, not as a camera
        "dreamfusion.checkpoint.pickle.loads",
        "dreamfusion.checkpoint.load_scene",  # ours, but not an option
        "dreamfusion.camera.orbit.look_from",
        "dreamfusion.no.such.thing",
        ["dreamfusion.camera.orbit.Orbit"],
        None,
    ],
)
def test_only_targets_of_the_groups_options_are_allowed(target):
    with pytest.raises(UntrustedError, match=r"at camera; allowed there: dreamfusion\.camera\.orbit\.Orbit"):
        checked_configuration({"camera": CAMERA | {"_target_": target}}, SOURCE)
    with pytest.raises(UntrustedError, match=r"at camera\.light; no _target_ is allowed there"):
        checked_configuration({"camera": CAMERA | {"light": {"_target_": target}}}, SOURCE)
    with pytest.raises(UntrustedError, match="no _target_ is allowed there"):
        checked_configuration({"prompt": {"_target_": target}}, SOURCE)


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "a ${oc.decode:x}", "${oc.env:HOME}${seed}", "${${seed}}", "\\\\${oc.env:A}", "${ seed}"]
)
def test_no_resolver_is_called(text):
    with pytest.raises(UntrustedError, match="does not refer to a setting"):
        checked_configuration({"logger": {"tags": [text]}}, SOURCE)


@pytest.mark.parametrize("text", ["${seed}", "${field.radius}", "a \\${hat}", "\\\\\\${oc.env:A}", "$5", "{x}"])
def test_references_to_settings_and_plain_text_are_unchanged(text):
    assert checked_configuration({"logger": {"group": text}}, SOURCE) == {"logger": {"group": text}}


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, b"x", 1j, torch.zeros(1), OmegaConf.create({}), {3: 4}])
def test_a_configuration_is_plain_data(value):
    with pytest.raises(UntrustedError, match=r"^sent\.ckpt has "):
        checked_configuration({"camera": {"up_std": [value]}}, SOURCE)


def test_a_configuration_that_shares_or_contains_itself_ends():
    shared, endless = ["x"], []
    for _ in range(60):
        shared = [shared, shared]
    endless.append(endless)
    for value, reason in ((shared, "more than 10,000 values"), (endless, "nested without end")):
        with pytest.raises(UntrustedError, match=reason):
            checked_configuration({"camera": {"elevation": value}}, SOURCE)


def test_every_option_of_every_group_is_accepted():
    for file in CONFIGURATION.glob("*/**/*.yaml"):
        group = file.relative_to(CONFIGURATION).parts[0]
        if group in ("hydra", "experiment", "mode", "benchmark"):
            continue
        option = OmegaConf.to_container(untrusted.extended(file, CONFIGURATION, [CONFIGURATION]), resolve=False)
        if file.read_text().startswith("# @package _global_"):  # as scene/mesh.yaml, which changes other groups too
            option = option[group]
        assert checked_configuration({group: copy.deepcopy(option)}, SOURCE) == {group: option}


def test_a_second_stage_may_name_what_its_groups_may():
    mesh = {"_target_": "dreamfusion.scene.mesh.scene.MeshScene"}
    assert checked_configuration({"refine": {"scene": mesh}}, SOURCE) == {"refine": {"scene": mesh}}
    for refused in ({"scene": {"_target_": "os.system"}}, {"camera": mesh}, {"refine": {"scene": mesh}}, mesh):
        with pytest.raises(UntrustedError):
            checked_configuration({"refine": refused}, SOURCE)


CLEAN = {"_target_": "dreamfusion.mode.clean.run", "_partial_": True, "remove": ["checkpoints"]}


@pytest.mark.parametrize("way", ["${mode}", "${extra}", "${extra.again}", "${listed}", "${listed.0}", "a ${mode}"])
def test_an_interpolation_puts_no_target_where_no_option_has_it(way):
    """Hydra would call what stands there: `scene: ${mode}` would run a mode with the arguments of the file."""
    others = {"mode": CLEAN, "extra": {"again": "${mode}"}, "listed": ["${extra}"]}
    for place in ({"scene": way}, {"scene": {"field": way}}, {"scene": {"field": {"deep": [way]}}}):
        with pytest.raises(UntrustedError, match="where no option refers to it"):
            checked_configuration(others | place, SOURCE)
    hidden = {"refine": {"mode": CLEAN}, "scene": "${refine.mode}"}
    with pytest.raises(UntrustedError, match=r"\$\{refine\.mode\} at scene, where no option refers to it"):
        checked_configuration(hidden, SOURCE)


def test_interpolations_that_go_round_or_on_and_on_end():
    many = {f"a{i}": f"${{a{i + 1}}}" for i in range(9000)}
    wide = {f"b{i}": [f"${{b{j}}}" for j in range(40)] for i in range(40)}
    for content in ({"a": "${b}", "b": "${a}", "scene": "${a}"}, wide | {"scene": "${b0}"}):
        assert checked_configuration(content, SOURCE) == content
    with pytest.raises(UntrustedError, match="nested without end"):
        checked_configuration(many | {"scene": "${a0}"}, SOURCE)


@pytest.mark.parametrize("change", [{"_partial_": False}, {"_recursive_": False}, {"_convert_": "all"}])
def test_a_target_is_called_as_its_option_calls_it(change):
    logger = OmegaConf.to_container(OmegaConf.load(CONFIGURATION / "logger" / "csv.yaml"))
    assert checked_configuration({"logger": logger}, SOURCE)
    with pytest.raises(UntrustedError, match="than its option"):
        checked_configuration({"logger": logger | change}, SOURCE)


@pytest.mark.parametrize("key", ["/", "../elsewhere", "camera/../../elsewhere", "a.b", ""])
def test_a_key_is_no_path(key, tmp_path):
    with pytest.raises(UntrustedError, match="not the name of a group"):
        checked_configuration({key: {"_target_": "os.system"}}, SOURCE)
    (tmp_path / "own.yaml").write_text("_target_: os.system\n")
    with pytest.raises(UntrustedError, match="not the name of a group"):
        checked_configuration({str(tmp_path): {"_target_": "os.system"}}, SOURCE)


def test_an_option_of_the_users_own_folder_is_accepted(tmp_path, monkeypatch):
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera" / "mine.yaml").write_text("_target_: mine.Camera\n")
    monkeypatch.setattr("dreamfusion.untrusted.configuration_folders", lambda: [CONFIGURATION, tmp_path])
    assert checked_configuration({"camera": {"_target_": "mine.Camera"}}, SOURCE)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A function that writes an option into a user's folder, which the command names."""
    monkeypatch.setattr(untrusted, "configuration_folders", lambda: [CONFIGURATION, tmp_path])

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    yield write
    untrusted._options.cache_clear()


def test_an_option_of_another_folder_may_be_extended(own_folder):
    own_folder("optimizer/radam.yaml", "defaults: [adam, _self_]\noptimizer: {_target_: torch.optim.RAdam}")
    optimizer = OmegaConf.to_container(OmegaConf.load(CONFIGURATION / "optimizer" / "adam.yaml"))
    optimizer["optimizer"]["_target_"] = "torch.optim.RAdam"
    assert checked_configuration({"optimizer": optimizer}, SOURCE)
    with pytest.raises(UntrustedError, match=r"torch\.optim\.Rprop at optimizer\.optimizer; allowed there: .*RAdam"):
        checked_configuration({"optimizer": optimizer | {"optimizer": {"_target_": "torch.optim.Rprop"}}}, SOURCE)


def test_an_option_may_be_made_of_others(own_folder):
    own_folder("guidance/net.yaml", "_target_: mine.Net")
    parts = "[pocket@first, net@second, {/field@grid.coarse: hashgrid}, _self_]"
    own_folder("guidance/both.yaml", f"defaults: {parts}\n_target_: mine.Both")
    pocket, net = {"_target_": "dreamfusion.guidance.pocket.PocketPrior"}, {"_target_": "mine.Net"}
    grid = {"coarse": {"_target_": "dreamfusion.scene.nerf.hashgrid.HashGridField"}}
    both = {"_target_": "mine.Both", "first": pocket, "second": net, "grid": grid}
    assert checked_configuration({"guidance": both}, SOURCE)
    for changed in ({"first": net}, {"second": pocket}, {"third": net}, {"grid": {"fine": grid["coarse"]}}):
        with pytest.raises(UntrustedError, match="at guidance"):
            checked_configuration({"guidance": both | changed}, SOURCE)


def test_an_option_in_a_folder_of_a_group_stands_at_its_place(own_folder):
    own_folder("system/regularizer/sharp.yaml", "terms: {sharp: {_target_: mine.sharp, _partial_: true}}")
    terms = {"terms": {"sharp": {"_target_": "mine.sharp", "_partial_": True}}}
    assert checked_configuration({"system": {"regularizer": terms}}, SOURCE)
    with pytest.raises(UntrustedError, match=r"mine\.sharp at system\.terms"):
        checked_configuration({"system": terms}, SOURCE)

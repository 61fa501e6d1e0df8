"""Prompts survive Hydra and name the folders, and everything in conf/ and sweeps/ composes."""

import random
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreamfusion.cli.quoting import TEXTS, quote_texts
from dreamfusion.cli.validation import fits, parameters
from dreamfusion.error import UserError
from dreamfusion.runs.names import TIME, digest, moment, run_folder, slug, study_of, subject
from dreamfusion.runs.resume import resumed
from dreamfusion.runs.settings import plain, run_settings

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "experiment")
}
# Each case takes one option of each group; together the cases cover all options.
ROUNDS = [
    {group: options[turn % len(options)] for group, options in GROUPS.items()}
    for turn in range(max(map(len, GROUPS.values())))
]
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix() for path in CONF.glob("experiment/**/*.yaml")
)
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
PROMPTS = [
    "a cat",
    "a cat's hat",
    "a corgi, oil painting",
    "a cat (sitting)",
    "e=mc2",
    "ein Bär 🐈",
    'a "quoted" cat',
    'say "hi"',
    "a backslash \\",
    'a \\" mix \\\\',
    "${x}",
    "\\${x}\\",
    "x" * 2000,
    "../../x",
    "[a, b] {c: d}",
    "a: b # c",
    "null",
    "3",
    "two\nlines",
    "50% !~+@*?|&;<>",
]


def parsed(argument):
    """The value that Hydra parses from a command-line argument."""
    (argument,) = quote_texts([argument])
    value = OverridesParser.create().parse_override(argument).value()
    return OmegaConf.create({"text": value}).text


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: p[:12])
def test_a_prompt_passes_the_command_line_unchanged(prompt):
    assert parsed(f"prompt={prompt}") == prompt


def test_random_prompts_pass_unchanged():
    pieces = [*"a \\\"'${}()=[],:#%!~🐈é\n", "${x}", "null"]
    chance = random.Random(0)
    for prompt in ("".join(chance.choices(pieces, k=chance.randint(1, 6))) for _ in range(300)):
        already_quoted = re.fullmatch(r"""(['"]).*\1""", prompt, re.DOTALL)
        if prompt.strip() and not already_quoted:
            assert parsed(f"prompt={prompt}") == prompt


def test_a_prompt_passes_composition_and_checkpoint_unchanged(compose_config):
    prompt = "\n".join(PROMPTS)
    cfg = compose_config(f"prompt={prompt}")
    assert cfg.prompt == prompt
    saved = plain(cfg)  # what a checkpoint holds
    assert OmegaConf.create(saved).prompt == prompt
    assert resumed(OmegaConf.create(saved), cfg, quote_texts([f"prompt={prompt}"])).prompt == prompt


def test_a_prompt_in_hydras_own_quotes_is_the_text_between_them():
    assert parsed('prompt="a corgi, oil painting"') == "a corgi, oil painting"
    assert parsed("prompt='it, too'") == "it, too"
    assert parsed(r'prompt="say \"hi\", cat"') == 'say "hi", cat'


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: p[:12])
def test_quoting_twice_is_quoting_once(prompt):
    """The processes of a distributed run get the first process's quoted arguments."""
    once = quote_texts([f"prompt={prompt}", "checkpoint=a=b", "seed=1"])
    assert quote_texts(once) == once


def test_a_checkpoint_path_is_text_as_well_and_null_is_none():
    assert parsed("checkpoint=my runs/x=1, (2)") == "my runs/x=1, (2)"
    assert parsed("checkpoint=null") is None


def test_an_empty_prompt_stays_empty():
    assert parsed("prompt=") == parsed("prompt=  ") == ""


def jobs_of(*arguments):
    """The settings of each run of a multirun, as Hydra gives them to it."""
    overrides = OverridesParser.create().parse_overrides(quote_texts(arguments)[1:])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    read = OverridesParser.create().parse_overrides
    return [{one.key_or_group: OmegaConf.create([one.value()])[0] for one in read(job)} for job in jobs]


def test_in_a_multirun_commas_separate_runs_unless_quoted():
    arguments = ["-m", 'prompt=a cat,"a corgi, oil painting"', "seed=0,1"]
    assert jobs_of(*arguments) == [
        {"prompt": prompt, "seed": seed} for prompt in ("a cat", "a corgi, oil painting") for seed in (0, 1)
    ]


TEXT_SETTINGS = [
    "guidance.weights",
    "logger.project",
    "hydra.run.dir",
    "mode.output",
    "+trainer.x",
    "study",
    "objective",
]
EXAMPLES = [
    "runs/epoch=3-step=10",
    "très-jolis",
    "müller",
    "my runs (2)",
    "o/données",
    "a cat's hat",
    "a, b",
    "a [1",
    "x: {",
]
NUMBERS = ["007", "1e3", "1_000", "true", "-1", "nan", ".5"]


@pytest.mark.parametrize("key", TEXT_SETTINGS)
@pytest.mark.parametrize("text", EXAMPLES)
def test_every_setting_takes_any_text(key, text):
    assert parsed(f"{key}={text}") == text


@pytest.mark.parametrize("key", ["prompt", "study", "start", "prompts.file", "logger.project", "mode.title"])
def test_a_text_that_looks_like_a_number_stays_the_text_also_in_a_multirun(key):
    for text in NUMBERS:
        assert parsed(f"{key}={text}") == text
        assert jobs_of("-m", f"{key}={text}") == [{key: text}]
    assert [job[key] for job in jobs_of("-m", f'{key}={", ".join(NUMBERS)},"a, b"')] == [*NUMBERS, "a, b"]


@pytest.mark.parametrize("key", ["prompt", "study"])
def test_a_free_text_calls_no_resolver_in_a_multirun_either(key):
    assert [job[key] for job in jobs_of("-m", f"{key}=${{oc.env:HOME}},${{seed}}")] == ["${oc.env:HOME}", "${seed}"]


def test_settings_of_text_are_those_whose_parameter_takes_text_and_no_number():
    """Their names are a list because a command line is read before torch, and so before the parameters."""
    found = set()
    for group in sorted(set(GROUPS) - {"recipe"}):
        for path in (CONF / group).glob("*.yaml"):
            found |= {f"{group}.{name}" for name in texts_of(OmegaConf.load(path))}
    assert found == {name for name in TEXTS if name.split(".")[0] in GROUPS}


def texts_of(tree, above=""):
    """Dotted names of the settings of an option whose parameter takes a text and no number."""
    known = parameters(OmegaConf.to_container(tree)["_target_"]) if "_target_" in tree else {}
    for key, value in tree.items_ex(resolve=False):
        annotation = known.get(key, Any)
        if not isinstance(annotation, str) and fits("x", annotation) and not fits(1, annotation):
            yield f"{above}{key}"
        if OmegaConf.is_dict(value):
            yield from texts_of(value, f"{above}{key}.")


@pytest.mark.parametrize(
    "argument",
    ["x=[[0,64],[1,96]]", "seed=0,1", "study=null", "guidance=sd,pocket", "x={a: 1}", "x=1e-3", "x=${seed}", "~x"],
)
def test_other_values_stay_as_hydra_reads_them(argument):
    assert quote_texts([argument]) == [argument]
    assert quote_texts(["-m", argument]) == ["-m", argument]


@pytest.mark.parametrize("key", ["prompt", "study", "mode.title"])
def test_texts_of_a_multirun_are_separated_by_commas_and_quoted_where_hydra_cannot_read_them(key):
    jobs = jobs_of("-m", f'{key}=a cat\'s hat, ein Bär (🐈),"a dog, oil"')
    assert [job[key] for job in jobs] == ["a cat's hat", "ein Bär (🐈)", "a dog, oil"]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A cat's hat!", "a-cats-hat"),
        ("Ein Bär", "ein-bar"),
        ("  two   words ", "two-words"),
        ("../../etc/passwd", "etc-passwd"),
        ("/absolute", "absolute"),
    ],
)
def test_folder_names_are_readable(prompt, name):
    assert slug(prompt) == name


@pytest.mark.parametrize("prompt", [*PROMPTS, "..", ".", "/", "🐈", "...", "猫", "\x00", "\udcff"], ids=lambda p: p[:9])
def test_a_folder_name_is_never_empty_never_a_path_and_never_long(prompt):
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", slug(prompt))
    assert len(slug(prompt)) <= 60


def test_long_or_wordless_prompts_get_distinct_folders():
    assert slug("x" * 200) != slug("x" * 201)
    assert slug("猫") != slug("犬")


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (("train", "a cat", None, "now"), "train/a-cat/now"),
        (("sample", "a cat", None, "now"), "sample/a-cat/now"),
        (("train", "../../x", None, "now"), "train/x/now"),
        (("train", None, None, "now"), "."),  # fails at once, so it gets no folder
        (("train", " ", None, "now"), "."),
        (("train", "a cat", "latest", "now"), "."),  # resumes in the run's own folder
        (("export", "a cat", None, "now"), "."),
        (("train", "a cat", None, "now", "My study!"), "studies/my-study/a-cat/now"),
        (("train", None, None, "now", "my study"), "."),
    ],
)
def test_where_a_run_writes(arguments, folder):
    assert run_folder(*arguments) == folder


def test_a_run_from_a_picture_is_named_after_its_prompt_or_else_the_file(compose_config):
    for arguments, name in ((["image=photos/My cat.png"], "My cat"), (["image=x.png", "prompt=a cat"], "a cat")):
        assert subject(compose_config(*arguments)) == name
    assert subject(compose_config()) is None


def test_two_commands_of_the_same_second_have_two_folders():
    first, second = (datetime(2026, 1, 2, 3, 4, 5, microsecond).strftime(TIME) for microsecond in (6, 7))
    assert first != second
    assert datetime.strptime(moment(), TIME)
    assert (CONF / "config.yaml").read_text().count(f"${{now:{TIME}}}") == 2


@pytest.mark.parametrize(
    ("study", "mode", "name"),
    [
        ("gallery", RunMode.RUN, "gallery"),
        ("gallery", RunMode.MULTIRUN, "gallery"),
        (None, RunMode.RUN, None),
        ("  ", RunMode.RUN, None),
        (None, RunMode.MULTIRUN, "multirun"),
    ],
)
def test_a_run_belongs_to_the_named_study_and_a_multirun_always_to_one(study, mode, name):
    assert study_of(study, mode) == name


def test_a_study_has_one_folder_for_each_set_of_settings(compose_config):
    same = ["prompt=a cat", "seed=1", "camera.views=4"]
    first = digest(compose_config(*same))
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert digest(compose_config(*same, "resume=false", "study=x", "logger=wandb", "checkpoint=latest")) == first
    for other in ("seed=2", "guidance=sd", "trainer.max_steps=9"):
        assert digest(compose_config(*same, other)) != first


def test_only_a_watchdog_that_restarts_a_run_makes_it_another_one(compose_config):
    """It lowers the learning rates; runs with the other answers are those of studies made before."""
    first = digest(compose_config("prompt=a cat"))
    for answer in ("stop", "warn", "none"):
        cfg = compose_config("prompt=a cat", f"watchdog={answer}")
        assert digest(cfg) == first
        assert not any(name.startswith("watchdog") for name in run_settings(cfg))
    restarting = [compose_config("prompt=a cat", "watchdog=restart", *more) for more in ([], ["watchdog.factor=0.5"])]
    assert len({first, *map(digest, restarting)}) == 3
    found = {name: value for name, value in run_settings(restarting[1]).items() if name.startswith("watchdog")}
    assert found == {"watchdog.answer": "restart", "watchdog.restarts": 3, "watchdog.factor": 0.5}


def test_there_is_no_group_named_prompt():
    """A folder conf/prompt/ would make Hydra read prompt="a cat" as the choice of an option."""
    assert not (CONF / "prompt").exists()
    assert not (CONF / "prompt.yaml").exists()


@pytest.mark.parametrize("choices", ROUNDS, ids=lambda choices: " ".join(choices.values()))
def test_every_option_of_every_group_composes_and_can_be_built_without_weights(choices, compose_config):
    options = [f"{group}={option}" for group, option in choices.items()]
    cfg = compose_config("prompt=a cat", "field.log2_table_size=8", *options)
    assert OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True).keys() >= choices.keys()
    for group in ("field", "background", "renderer", "camera", "prompting", "logger", "trainer"):
        assert instantiate(cfg[group]) is not None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_only_overrides(experiment, compose_config):
    before, after = (plain(compose_config(*a)) for a in ((), (f"experiment={experiment}",)))
    plain_keys, keys = leaves(before), leaves(after)
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    chosen = {*re.findall(r"override /(\w+):", text), *after.get("recipe", {}).get("groups", {})}
    assert text.startswith("# @package _global_\n")
    assert {key for key in keys - plain_keys if key.split(".")[0] not in {*chosen, "recipe", "refine"}} == set()


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_and_its_runs_compose_over_the_whole_configuration(sweep, compose_config):
    def composed(*arguments):
        return compose_config(f"hydra.searchpath=[file://{CONF}]", *arguments, name=sweep, folder=ROOT / "sweeps")

    plain_keys = leaves(plain(compose_config()))
    cfg, settings = composed(), OmegaConf.load(ROOT / "sweeps" / f"{sweep}.yaml")
    assert cfg.study
    assert {key for key in plain_keys ^ leaves(plain(cfg)) if not key.startswith("pruning.")} == set()
    params = [f"{key}={value}" for key, value in settings.hydra.sweeper.params.items()]
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(simple(params)), None)
    assert len(jobs) >= 2
    runs = [composed(*job) for job in (jobs[0], jobs[-1])]
    assert len({digest(run) for run in runs}) == 2
    for run in runs:
        assert run.prompt
        assert run.distillation.guidance_scale is None or run.distillation.guidance_scale > 0


def simple(params):
    """Replace the ranges of a search by their two ends, for Hydra's own sweeper."""
    return [re.sub(r"(?:tag\(log, )?interval\(([^()]*)\)\)?|choice\((.*)\)", r"\1\2", text) for text in params]


def leaves(tree, path=""):
    """The dotted names of all values; lists count as values."""
    if not isinstance(tree, dict) or not tree:
        return {path}
    return {leaf for key, value in tree.items() for leaf in leaves(value, f"{path}.{key}".lstrip("."))}


def test_the_papers_settings_are_the_published_ones(compose_config):
    """Poole et al. 2022, Sec. 3 and App. A.2; steps as shares of 15,000."""
    cfg = compose_config("experiment=paper")
    steps = cfg.trainer.max_steps
    lighting, regularizer = instantiate(cfg.system.lighting), instantiate(cfg.system.regularizer)
    assert (steps, cfg.camera.views, cfg.camera.size, cfg.field.radius) == (15000, 4, 64, 1.4)
    assert lighting.albedo_until * steps == pytest.approx(1000, abs=1)
    assert (lighting.lit, lighting.textureless, lighting.ambient) == (0.75, 0.5, 0.1)
    weights = [regularizer.weights["orientation"](step / steps) for step in (0, 2500, 5000, 15000)]
    assert weights == pytest.approx([1e-4, 0.00505, 1e-2, 1e-2], rel=1e-3)
    assert 1e-3 <= regularizer.weights["opacity"](0.5) <= 5e-3
    assert (cfg.distillation.min_timestep, cfg.distillation.max_timestep) == (0.02, 0.98)
    assert (cfg.distillation.guidance_scale, cfg.distillation.weighting) == (101.0, "sigma2")
    camera = instantiate(cfg.camera)
    assert camera.look_at_std**2 == pytest.approx(0.2, abs=1e-3)
    assert camera.up_std**2 == pytest.approx(0.02, abs=1e-3)


SAVED = OmegaConf.create(
    {
        "prompt": "a cat",
        "seed": 3,
        "system": {"seed": "${seed}"},
        "camera": {"views": 4},
        "guidance": {"_target_": "a", "x": 1},
    }
)


def resume_with(composed, *overrides):
    mode = {"mode": {"_target_": "dreamfusion.mode.train.Train"}}
    return resumed(SAVED, OmegaConf.create(composed | mode), quote_texts(overrides))


def test_a_resumed_run_keeps_all_settings_that_are_not_named():
    composed = {
        "prompt": None,
        "seed": 0,
        "system": {"seed": "${seed}"},
        "camera": {"views": 8},
        "checkpoint": "latest",
    }
    settings = resume_with(composed, "checkpoint=latest", "camera.views=8")
    assert (settings.prompt, settings.seed, settings.camera.views) == ("a cat", 3, 8)
    assert SAVED.camera.views == 4


def test_interpolations_follow_a_named_setting():
    settings = resume_with({"seed": 7, "system": {"seed": "${seed}"}}, "seed=7")
    assert (settings.seed, settings.system.seed) == (7, 7)


def test_a_named_group_is_replaced_as_a_whole():
    settings = resume_with({"guidance": {"_target_": "b", "y": 2}}, "guidance=b")
    assert settings.guidance == {"_target_": "b", "y": 2}


def test_an_added_key_is_copied():
    assert resume_with({"system": {"new": {"deep": 1}}}, "+system.new.deep=1").system.new.deep == 1


@pytest.mark.parametrize("override", ["experiment=smoke", "~camera.views"])
def test_only_single_settings_can_be_changed_in_a_resumed_run(override):
    with pytest.raises(UserError, match=f"{re.escape(override)} cannot be changed in a resumed run.* leave it out"):
        resume_with({"system": {"seed": 0}}, override)

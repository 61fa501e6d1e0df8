"""Check the settings of a command before anything is built. Light: a mistake is answered before torch is imported."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from dreamfusion.error import GuidanceError, UserError, check_positive
from dreamfusion.export.settings import ROBOT, ExportSettings
from dreamfusion.runs.find import find_checkpoint, find_runs, run_choice
from dreamfusion.runs.prompt_list import read_prompts
from dreamfusion.runs.settings import plain
from dreamfusion.untrusted import check_own

WEIGHTS = (".safetensors", ".ckpt", ".bin")  # the last, pickled, is refused with its own message
LOOKING = ("dreamfusion.guidance.zero123.Zero123Prior",)  # priors that look at a picture, and read no prompt
RECOGNIZERS = ("dreamfusion.guidance.pocket.PocketPrior",)  # priors that find the prompt of a picture
LONGEST_PROMPT = 2000  # characters, far above the limit of the text encoders
SCALED = ("16-mixed", "16")  # of these, those whose loss is scaled
PRECISIONS = ("32-true", "32", 32, "16-mixed", "16", 16, "bf16-mixed", "bf16")  # of a step: weights stay float32
IMPORTED = {"usd-core": "pxr"}  # names of packages whose module has another name


def check_first(mode: str, cfg: DictConfig) -> None:
    """The checks that need no import: files that the command reads, and settings of a run.

    Raises:
        UserError: a file is missing, or a setting is invalid.
        GuidanceError: there are no weights.
    """
    makes = mode == "train" or (mode == "view" and (cfg.prompt is not None or cfg.image is not None))
    runs = run_choice(cfg) if mode in ("export", "render", "gallery", "sheet") else cfg.run if mode == "view" else None
    for choice in (cfg.checkpoint, cfg.start if makes else None):
        if choice is not None:
            find_checkpoint(str(choice))
    if runs is not None:
        find_runs(str(runs), weights=mode != "gallery")
    elif cfg.checkpoint is None and (mode in ("export", "render") or (mode == "view" and not makes)):
        find_checkpoint("latest")
    if cfg.config is not None and not Path(str(cfg.config)).expanduser().is_file():
        raise UserError(f"there is no file {cfg.config}; type config=... with the config.yaml of a run")
    if makes and cfg.prompts.file is not None:
        read_prompts(Path(str(cfg.prompts.file)).expanduser())
        _check_alone(cfg)
    elif makes and cfg.checkpoint is None and cfg.config is None:
        if cfg.image is None:
            check_prompt(cfg.prompt)
        else:
            check_image(cfg)
        check_settings(cfg)
    if mode in ("sample", "image"):
        check_prompt(cfg.prompt)
    if (makes and cfg.checkpoint is None) or mode in ("sample", "image"):
        _check_weights(cfg.guidance)
        _check_packages(_of_prior(cfg))
    if makes or mode == "export":
        _check_packages(_of_export(cfg.export))


def check(cfg: DictConfig) -> None:
    """Raises: UserError: the prompt, seed, a setting of the trainer or of the mesh is invalid, or could not be read
    again from a checkpoint.
    """
    check_prompt(cfg.prompt)
    check_settings(cfg)
    check_own(plain(cfg))


def check_settings(cfg: DictConfig) -> None:
    """Raises: UserError: the seed, a setting of the trainer or of the mesh is invalid, or the prior lacks a picture."""
    if cfg.guidance._target_ in LOOKING and cfg.get("image") is None:
        raise UserError("guidance=zero123 needs a picture of the object; type image=cat.png")
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed is {cfg.seed}; it must be a whole number from 0 to {2**32 - 1}")
    check_trainer(cfg.trainer)
    _check_scaled(cfg)
    ExportSettings.of(cfg.export)
    _check_alone(cfg)  # last: it may import torch


def check_image(cfg: DictConfig) -> None:
    """Raises: UserError: the picture is missing, or has no prompt with a prior that cannot find one."""
    if not Path(str(cfg.image)).expanduser().is_file():
        raise UserError(f"there is no file {cfg.image}; type image=... with a picture of one object")
    if cfg.prompt is not None:
        check_prompt(cfg.prompt)
    elif cfg.guidance._target_ not in (*RECOGNIZERS, *LOOKING):
        raise UserError(
            f'image={cfg.image} needs a prompt with this prior; type prompt="a cat", or guidance=pocket, which finds '
            "the nearest object that it knows"
        )


def check_prompt(prompt: object) -> None:
    """Raises: UserError: no prompt, an empty one, one that is too long, or invalid Unicode."""
    if prompt is None or not str(prompt).strip():
        raise UserError('there is no prompt; type prompt="a cat"')
    if len(str(prompt)) > LONGEST_PROMPT:
        raise UserError(f"the prompt has {len(str(prompt))} characters; at most {LONGEST_PROMPT} are allowed")
    try:
        str(prompt).encode()
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not valid UTF-8; set the terminal to UTF-8") from error


def check_trainer(trainer: DictConfig) -> None:
    """Raises: UserError: a setting that Lightning allows and a run does not: its end and its step are ours."""
    check_positive("trainer", max_steps=trainer.max_steps, log_every_n_steps=trainer.log_every_n_steps)
    if trainer.precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision is {trainer.precision}; weights are float32: type trainer.precision=32-true, 16-mixed "
            "or bf16-mixed"
        )
    if trainer.max_epochs != -1:
        raise UserError(f"trainer.max_epochs is {trainer.max_epochs}; a run ends by steps: type trainer.max_steps=300")
    batches = trainer.get("accumulate_grad_batches", 1)
    if batches != 1:
        raise UserError(
            f"trainer.accumulate_grad_batches is {batches}; a step is one batch: type camera.views=NUMBER for more "
            "views a step"
        )
    for name, whole in (("limit_train_batches", 1.0), ("overfit_batches", 0.0)):
        if (given := trainer.get(name, whole)) not in (whole, None):
            raise UserError(
                f"trainer.{name} is {given}, which would repeat the first cameras; a run ends by steps: type "
                "trainer.max_steps=300"
            )
    clip = trainer.gradient_clip_val
    if clip is not None and clip <= 0:
        raise UserError(f"trainer.gradient_clip_val is {clip}; it must be above 0, or null for no clipping")


def _check_alone(cfg: DictConfig) -> None:
    """Raises: UserError: several processes for what the first alone decides, from files that it alone writes."""
    several = {"experiment=refine": cfg.get("refine"), "prompts.file": cfg.prompts.file, "objective": cfg.objective}
    chosen = [name for name, value in several.items() if value is not None]
    if not chosen:
        return
    from dreamfusion.ranks import is_distributed  # imported here: torch takes a second

    if is_distributed(cfg.trainer):
        raise UserError(
            f"{chosen[0]} takes several trainings, whose order one process decides; type trainer.devices=1 "
            "trainer.strategy=auto, or a command for each training"
        )


def _check_scaled(cfg: DictConfig) -> None:
    """Raises: UserError: a limit of the gradient that does not go with the scaled loss of precision=16-mixed."""
    if str(cfg.trainer.precision) not in SCALED:
        return
    if cfg.trainer.gradient_clip_val is not None and cfg.optimizer.optimizer.get("fused"):
        raise UserError(
            f"trainer.gradient_clip_val with trainer.precision={cfg.trainer.precision} needs an optimizer that is not "
            "fused; type optimizer.optimizer.fused=false, or trainer.precision=bf16-mixed"
        )
    if cfg.distillation.get("clip_pixels") is not None:
        raise UserError(
            f"distillation.clip_pixels would limit the scaled gradient of trainer.precision={cfg.trainer.precision}; "
            "type trainer.precision=bf16-mixed or 32-true"
        )


def _check_packages(needs: Mapping[str, tuple[bool, str, str]]) -> None:
    """Raises: UserError: a package that a chosen setting needs is missing: `needs` says whether, package and extra.

    It would be found after a download of gigabytes, or after the training.
    """
    for setting, (chosen, package, extra) in needs.items():
        if chosen and find_spec(IMPORTED.get(package, package)) is None:
            raise UserError(f"{setting} needs the package {package}; type pip install 'dreamfusion[{extra}]'")


def _of_prior(cfg: DictConfig) -> dict[str, tuple[bool, str, str]]:
    vsd = str(cfg.distillation._target_).startswith("dreamfusion.distillation.vsd.")
    return {
        "distillation=vsd": (vsd, "peft", "vsd"),
        "guidance.lora": (cfg.guidance.get("lora") is not None, "peft", "vsd"),
    }


def _of_export(export: DictConfig) -> dict[str, tuple[bool, str, str]]:
    parts = export.format == ROBOT and isinstance(export.concavity, int | float) and export.concavity < 1
    return {
        "export=urdf with export.concavity below 1": (parts, "coacd", "urdf"),
        "export=usdz": (export.format == "usdz", "usd-core", "usd"),
        "export.quads=true": (export.quads is True, "pynanoinstantmeshes", "quads"),
    }


def _check_weights(guidance: DictConfig) -> None:
    """Raises: GuidanceError: a folder or a file of this machine that holds weights is missing or empty."""
    for name in ("weights", "model", "lora"):
        value = guidance.get(name)
        first = value[0] if isinstance(value, ListConfig) and value else value
        if not isinstance(first, str) or not (name == "weights" or first.startswith(("/", "~", "."))):
            continue  # null, or an id of the hub
        path = Path(first).expanduser()
        found = path.is_file() or any(next(path.rglob(f"*{suffix}"), None) for suffix in WEIGHTS)
        if not found:
            raise GuidanceError(
                f"guidance.{name}={first}: {'no weights in this folder' if path.is_dir() else 'no such file or folder'}"
                f"; type guidance.{name}=/path/to/weights, or leave it out"
            )

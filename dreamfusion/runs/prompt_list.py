"""A file of prompts, one run each, one after the other in this process, which loads the prior once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError, check_positive
from dreamfusion.runs.names import digest, run_folder, study_of
from dreamfusion.runs.report import report

log = logging.getLogger(__name__)


def run_list(cfg: DictConfig, run_one: Callable[[DictConfig, Path], object]) -> Path:
    """Every prompt of `cfg.prompts.file`, or this process's share of them, as runs of a study; returns its folder.

    A prompt that fails does not keep the others from being run.

    Args:
        cfg: the configuration but for the prompt.
        run_one: makes one run from a configuration with a prompt, in a folder.

    Raises:
        UserError: no such file, an impossible share, a prompt beside the file; or, at the end, prompts that failed.
    """
    hydra = HydraConfig.get()
    study = study_of(cfg, hydra.mode) or Path(cfg.prompts.file).stem
    prompts = share(read_prompts(cfg), cfg.prompts.shard, cfg.prompts.shards)
    root, failed = Path(hydra.runtime.output_dir), []
    root = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    for number, prompt in enumerate(prompts, start=1):
        one = OmegaConf.merge(cfg, {"prompt": prompt, "study": study})
        assert isinstance(one, DictConfig)
        log.info("\nprompt %d of %d: %s", number, len(prompts), prompt)
        try:
            run_one(one, root / run_folder("train", prompt, None, digest(one), study))
        except UserError as error:
            failed.append(prompt)
            log.error("failed: %s: %s", prompt, error)
        except Exception:  # whatever it is, it is this prompt's; Ctrl-C is no Exception
            failed.append(prompt)
            log.exception("failed: %s", prompt)
    if prompts:
        report(study, root / "studies", cfg.logger)
    if failed:
        names = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise UserError(f"{len(failed)} of {len(prompts)} prompts failed ({names}); the same command tries them again")
    return root / "studies" / study


def read_prompts(cfg: DictConfig) -> list[str]:
    """One prompt a line, each once; empty lines and those that begin with # are none.

    Raises:
        UserError: no such file, no text, no prompt in it, or another prompt beside it.
    """
    path = Path(str(cfg.prompts.file)).expanduser()
    if cfg.prompt is not None:
        raise UserError(f"there is a prompt, {cfg.prompt}, and prompts.file={path}; type one of the two")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; prompts.file has one prompt a line") from error
    except OSError as error:
        raise UserError(f"cannot read prompts.file={path}: {error.strerror}; it has one prompt a line") from error
    prompts = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise UserError(f"there is no prompt in {path}; it has one a line")
    return prompts


def share(prompts: list[str], shard: int, shards: int) -> list[str]:
    """Every `shards`-th prompt, from the `shard`-th on, counted from 0; together the shards are all prompts.

    Raises:
        UserError: no such shard.
    """
    check_positive("prompts", shards=shards)
    if not isinstance(shard, int) or not 0 <= shard < shards:
        raise UserError(f"prompts.shard is {shard}; of prompts.shards={shards} it must be from 0 to {shards - 1}")
    return prompts[shard::shards]

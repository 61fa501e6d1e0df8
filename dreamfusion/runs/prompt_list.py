"""Run the prompts of a file one after the other in this process, which loads the prior once."""

import logging
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError, check_positive, user_message
from dreamfusion.runs.lock import Locked
from dreamfusion.runs.names import digest, relative_to_cwd, run_folder, study_of
from dreamfusion.untrusted import escaped

log = logging.getLogger(__name__)


def run_list(cfg: DictConfig, run_one: Callable[[DictConfig, Path], object]) -> Path:
    """Run every prompt of `cfg.prompts.file`, or this process's share, as a study; returns the study's folder.

    Continues after a prompt that failed.

    Args:
        cfg: the configuration without the prompt.
        run_one: runs a configuration with a prompt in a folder.

    Raises:
        UserError: the file, the share or a prompt beside the file is invalid; or, at the end, prompts that failed.
    """
    path = Path(str(cfg.prompts.file)).expanduser()
    if cfg.prompt is not None:
        raise UserError(f"prompt={cfg.prompt} and prompts.file={path} are both set; type only one of them")
    hydra = HydraConfig.get()
    study = study_of(cfg.study, hydra.mode) or path.stem
    prompts = share(read_prompts(path), cfg.prompts.shard, cfg.prompts.shards)
    root, failed = relative_to_cwd(Path(hydra.runtime.output_dir)), []
    for number, prompt in enumerate(prompts, start=1):
        one = OmegaConf.merge(cfg, {"prompt": escaped(prompt), "study": study})
        assert isinstance(one, DictConfig)
        log.info("\nprompt %d of %d: %s", number, len(prompts), prompt)
        try:
            run_one(one, root / run_folder("train", prompt, None, digest(one), study))
        except Locked as error:  # another process of the study runs it
            log.info("%s", error)
        except Exception as error:  # any error ends only this prompt; KeyboardInterrupt is not an Exception
            failed.append(prompt)
            message = user_message(error)
            if message is None:
                log.exception("failed: %s", prompt)
            else:
                log.error("failed: %s: %s", prompt, message)
    if prompts:
        from dreamfusion.runs.report import report  # imported here: slow, and `read_prompts` is called before all else

        report(study, root / "studies", cfg.logger)
    if failed:
        names = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise UserError(f"{len(failed)} of {len(prompts)} prompts failed ({names}); repeat the command to retry them")
    return root / "studies" / study


def read_prompts(path: Path, setting: str = "prompts.file") -> list[str]:
    """The distinct prompts of the file that `setting` names, one per line; skips empty lines and comments (#).

    Raises:
        UserError: the file is missing, is not UTF-8 text, or has no prompt.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; {setting} needs one prompt per line") from error
    except OSError as error:
        raise UserError(f"cannot read {setting}={path}: {error.strerror}; it needs one prompt per line") from error
    prompts = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise UserError(f"there is no prompt in {path}; it needs one per line")
    return prompts


def share(prompts: list[str], shard: int, shards: int) -> list[str]:
    """Every `shards`-th prompt, starting at index `shard`; all shards together cover all prompts.

    Raises:
        UserError: the shard does not exist.
    """
    check_positive("prompts", shards=shards)
    if not isinstance(shard, int) or not 0 <= shard < shards:
        raise UserError(f"prompts.shard is {shard}; with prompts.shards={shards} it must be from 0 to {shards - 1}")
    return prompts[shard::shards]

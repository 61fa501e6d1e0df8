"""Parse the command line with Hydra and run the chosen mode."""

import hydra
from omegaconf import DictConfig

from dreamfusion.cli.quoting import quote_command_line
from dreamfusion.cli.resolvers import register
from dreamfusion.cli.startup import quick_start
from dreamfusion.error import one_line_errors


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> object:
    quick_start()
    from dreamfusion.cli.dispatch import run_mode

    return run_mode(cfg)


if __name__ == "__main__":
    register()
    quote_command_line()
    with one_line_errors():
        main()

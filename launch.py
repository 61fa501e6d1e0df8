"""Parse the command line with Hydra and run the chosen mode."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    instantiate(cfg.mode)(cfg)


if __name__ == "__main__":
    main()

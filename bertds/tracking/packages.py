"""The packages that trackers need, and that are not installed with this one."""

import importlib.util

from bertds.config.case import Case
from bertds.errors import ConfigError

_COMMANDS = {
    "wandb": "pip install wandb",
    "comet_ml": "pip install 'comet_ml>=3.41.0'",
    "mlflow": "pip install mlflow-skinny (mlflow if the store is a file)",
}


def check_packages(case: Case) -> None:
    """Check that the package of each tracker that a case enables is installed.

    Raises:
        ConfigError: One is not.
    """
    packages = {
        "wandb.enabled": "wandb" if case.deepspeed.get("wandb", {}).get("enabled") else "",
        "comet.enabled": "comet_ml" if case.deepspeed.get("comet", {}).get("enabled") else "",
        "run.mlflow": "mlflow" if case.bertds.run.mlflow is not None else "",
    }
    for key, package in packages.items():
        if package and not _is_installed(package):
            raise ConfigError(
                f"{key} is set, but the package {package} is not installed: "
                f"{_COMMANDS[package]}, or remove the key"
            )


def _is_installed(package: str) -> bool:
    """Whether a package can be imported; its directory of runs, such as ./wandb, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None

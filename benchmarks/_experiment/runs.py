"""What the folder of a run says: its settings, its learning curve, its clock, its size."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparse_rl.checkpoints import CheckpointFolder
from sparse_rl.plots.files import EVALUATIONS, clock, read_episodes, read_evaluations
from sparse_rl.plots.intervals import Array
from sparse_rl.storage import read_yaml
from sparse_rl.training.existing import can_go_on, read_config
from sparse_rl.training.run_folder import CHECKPOINTS, SETTINGS, STAGING, SUMMARY


class Run:
    """
    A run that has been evaluated at least once; :attr:`is_finished` tells whether to the end.

    :param folder: its folder
    :raises InputError: if a file in it is damaged
    :raises OSError: if a file is missing or cannot be read
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.steps, self.returns = read_evaluations(folder / EVALUATIONS)

    @property
    def is_finished(self) -> bool:
        """
        Whether it came to its end and everything is on the disk.

        A run that was ended early has no last evaluation; one that was killed has left its staging folder; one whose
        last update went wrong says so. (Those in ``results/anf`` have no summary, but no checkpoints either.)
        """
        steps: int = self.config["hyperparameters"]["n_timesteps"]
        says = self._summary().get("finished", not (self.folder / CHECKPOINTS).exists())
        return bool(self.steps[-1] >= steps) and not (self.folder / STAGING).exists() and says is True

    def seconds(self) -> Array:
        """
        Tell the wall-clock time of each evaluation, those before it included.

        :return: seconds since the environment was made, of shape ``(evaluations,)``; NaN if no episode has ended
        """
        return clock(read_episodes(self.folder, self.config["hyperparameters"].get("n_envs", 1)), self.steps)

    def weights(self) -> int | None:
        """
        Tell how many weights the agent's networks have: active ones of sparse layers, all of dense ones, no biases.

        :return: the number of weights, without target networks; ``None`` if there is no ``summary.yml``
        """
        return self._count("weights")

    def training_flops(self) -> int | None:
        """
        Tell what training has cost.

        :return: floating-point operations, by the formula of docs/metrics.md; ``None`` if there is no ``summary.yml``
        """
        return self._count("training_flops")

    def _count(self, name: str) -> int | None:
        count = self._summary().get(name)
        return count if isinstance(count, int) else None

    def _summary(self) -> dict[str, Any]:
        file = self.folder / SUMMARY
        summary = read_yaml(file) if file.exists() else None
        return summary if isinstance(summary, dict) else {}


def finished_runs(root: Path) -> Iterator[Run]:
    """
    Find the runs that came to their end, the oldest of each kind first; say which are damaged.

    :param root: the folder of all runs
    :return: the finished runs
    """
    for file in sorted(root.glob(f"*/*/*/{EVALUATIONS}"), key=_age):
        try:
            run = Run(file.parent)
            if run.is_finished:
                run.seconds()  # reads what is left to be read
                yield run
        except (ValueError, KeyError, TypeError, OSError) as error:
            print(f"Note: the run in {str(file.parent)!r} does not count: {error}", file=sys.stderr)


def cut_off_runs(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """
    Find the runs that can be continued, the oldest of each kind first.

    :param root: the folder of all runs
    :return: their folders and what their ``config.yml`` says
    """
    for file in sorted(root.glob(f"*/*/*/{SETTINGS}"), key=_age):
        checkpoints = CheckpointFolder(file.parent / CHECKPOINTS)
        if checkpoints.path.is_dir() and can_go_on(file.parent):
            with suppress(ValueError, OSError):  # damaged: then another run is begun
                if not checkpoints.steps or any(True for _ in checkpoints.load(lambda _: None)):
                    yield file.parent, read_config(file.parent)


def _age(file: Path) -> tuple[Any, ...]:
    number = file.parent.name
    return file.parents[1], int(number) if number.isdecimal() else 0

"""The tidy table: one row for each run and evaluation."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from _experiment.grid import Cell
from _experiment.runs import Run
from sparse_rl.inputs import InputError
from sparse_rl.storage import write_atomically
from sparse_rl.training.plan import PROTOCOLS

FILE = "results.csv"


@dataclass(frozen=True)
class Row:
    """
    An evaluation of a run.

    :param algorithm: name of the algorithm
    :param environment: id of the environment
    :param replay: how noise was learnt from: ``"redrawn noise"``, ``"observed noise"`` or ``"no noise"``
    :param settings: what the grid set besides, for example ``"sparsity 0.9"``
    :param seed: the run's seed
    :param step: environment steps so far
    :param seconds: wall-clock seconds so far, with evaluations; NaN if unknown
    :param return_mean: mean return of the episodes
    :param return_std: their standard deviation
    :param episodes: number of episodes
    :param weights: active weights of the networks; ``None`` if unknown
    :param training_flops: floating-point operations of the whole run; ``None`` if unknown
    :param commit: commit of the code
    :param run: the run's folder
    """

    algorithm: str
    environment: str
    replay: str
    settings: str
    seed: int
    step: int
    seconds: float
    return_mean: float
    return_std: float
    episodes: int
    weights: int | None
    training_flops: int | None
    commit: str
    run: str


COLUMNS = [field.name for field in fields(Row)]


def rows_of(cell: Cell, run: Run, root: Path) -> Iterator[Row]:
    """
    Give a run's rows.

    :param cell: what it was to do
    :param run: what it did
    :param root: the folder to which its own is relative
    :return: a row for each evaluation
    """
    plan, weights, flops = cell.plan, run.weights(), run.training_flops()
    for step, seconds, returns in zip(run.steps, run.seconds(), run.returns, strict=True):
        yield Row(
            algorithm=plan.algo,
            environment=plan.env,
            replay=plan.protocol,
            settings=cell.settings,
            seed=plan.seed,
            step=int(step),
            seconds=round(float(seconds), 1),
            return_mean=round(float(returns.mean()), 3),
            return_std=round(float(returns.std()), 3),
            episodes=len(returns),
            weights=weights,
            training_flops=flops,
            commit=str(run.config.get("commit") or ""),
            run=str(run.folder.relative_to(root)),
        )


def write_results(folder: Path, rows: Iterable[Row]) -> None:
    """
    Write the table in one step.

    :param folder: the folder of the experiment
    :param rows: its rows
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(folder / FILE, lambda file: file.write(table.getvalue().encode()))


def read_results(folder: Path) -> list[Row]:
    """
    Read the table of an experiment.

    :param folder: the folder of the experiment
    :return: its rows
    :raises InputError: if there is none, it is empty, or it is damaged
    """
    file = folder / FILE
    if not file.exists():
        raise InputError(f"There is no {str(file)!r}: first `python benchmarks/experiment.py run` the experiment.")
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            table = list(csv.reader(lines))
    except csv.Error as error:
        raise InputError(f"{str(file)!r} is damaged: {error}. {_REMEDY}") from error
    if not table or table[0] != COLUMNS:
        raise InputError(f"{str(file)!r} does not have the columns {', '.join(COLUMNS)}. {_REMEDY}")
    if len(table) == 1:
        raise InputError(f"No run in {str(file)!r} is finished yet, so there is nothing to show.")
    return [_row(values, f"{str(file)!r}, line {number}") for number, values in enumerate(table[1:], start=2)]


_REMEDY = "`experiment.py run` writes it anew from the folders of the runs."
_NUMBERS = {"seed": int, "step": int, "seconds": float, "return_mean": float, "return_std": float, "episodes": int}


def _row(values: list[str], where: str) -> Row:
    try:
        row = dict(zip(COLUMNS, values, strict=True))
        numbers = {key: convert(row[key]) for key, convert in _NUMBERS.items()}
        if row["replay"] not in PROTOCOLS:
            raise ValueError(f"replay is {row['replay']!r}")
        counts = {key: int(row[key]) if row[key] else None for key in ("weights", "training_flops")}
        return Row(**{**row, **numbers, **counts})
    except ValueError as error:
        raise InputError(f"{where} is damaged: {error}. {_REMEDY}") from error

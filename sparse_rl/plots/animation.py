"""The animation of a run's connections: where its networks looked, from its first step to its last."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from sparse_rl.inputs import InputError
from sparse_rl.plots.intervals import Array
from sparse_rl.storage import StorageError, load_arrays, open_regular, write_atomically
from sparse_rl.training.existing import read_config
from sparse_rl.training.film import MOST_FRAMES
from sparse_rl.training.groups import groups_of
from sparse_rl.training.pictures import ACTION, LINES, NOISE, REAL
from sparse_rl.training.returns import MOST_STEPS, check_steps
from sparse_rl.training.run_folder import CONNECTIONS, MEANS, PICTURE

ENDING = ".gif"
_MILLISECONDS = 100  # that a frame is seen
_STILL = 2000  # the last one
_MOST_NETWORKS = 16
_MOST_BYTES = 2**28  # of all features; those of Humanoid-noise98 take 2**24
_MOST_BYTES_OF_MEANS = 2**26
_GROUPS = {"noise": (NOISE, 6), "real": (REAL, 18), "action": (ACTION, 18)}  # the few are drawn upon the many


@dataclass(frozen=True)
class Film:
    """
    A run's input layers at several times.

    :param title: what it is a film of
    :param steps: environment steps, of shape ``(frames,)``
    :param means: connections per feature of each group, ``"real"``, ``"noise"`` and ``"action"``, of each network, of
        shape ``(frames,)``; NaN where there are no such features
    :param connections: connections of every input feature of each network, of shape ``(frames, inputs)``; empty if only
        the means are known
    :param groups: for each network which inputs belong to which group, of shape ``(frames, inputs)``
    """

    title: str
    steps: NDArray[np.int64]
    means: Mapping[str, Mapping[str, Array]]
    connections: Mapping[str, NDArray[np.unsignedinteger[Any]]]
    groups: Mapping[str, Mapping[str, NDArray[np.bool_]]]


def read_film(folder: Path) -> Film:
    """
    Read what there is of a run's connections: of every feature, in ``connectivity.npz``; where that was not kept, as of
    the runs in ``benchmarks/results``, only means, in ``connectivity.csv``.

    :param folder: the run's folder
    :return: the film
    :raises ValueError: if there is no such run, nothing has been kept, a file is damaged, or nothing ever moved
    :raises OSError: if a file cannot be read
    """
    config = read_config(folder)
    title = f"{config.get('algo')} on {config.get('env')}"
    features, means = folder / CONNECTIONS, folder / MEANS
    if not (features.exists() or means.exists()):
        raise InputError(
            f"The run in {str(folder)!r} has neither {features.name} nor {means.name}: they are written when training "
            "ends, also when Ctrl-C ends it."
        )
    source = features if features.exists() else means
    try:
        film = _of_features(title, features) if source is features else _of_means(title, means)
    except (StorageError, OSError):  # they name the file
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(f"{str(source)!r} is damaged: {error}.") from error
    if len(film.steps) < 2:
        raise InputError(
            f"The connections of the run in {str(folder)!r} never changed, so there is nothing to animate: "
            f"{PICTURE} shows where they are."
        )
    return film


def _of_features(title: str, file: Path) -> Film:
    arrays = load_arrays(file, _MOST_BYTES)
    for name in ("steps", "real"):
        if name not in arrays:
            raise ValueError(f"it has no array {name!r}")
    steps, real = check_steps("steps", arrays.pop("steps")), arrays.pop("real")
    _check_amount(steps, arrays)
    if real.dtype.kind != "b" or any(counts.dtype.kind not in "iu" for counts in arrays.values()):
        raise ValueError("its tables have something else than truth values and numbers of connections")
    if any(counts.ndim != 2 or len(counts) != len(steps) or not counts.shape[1] for counts in (real, *arrays.values())):
        raise ValueError("its tables do not belong together")
    if any(counts.shape[1] < real.shape[1] or (counts < 0).any() for counts in arrays.values()):
        raise ValueError("its tables do not belong together: a network has fewer inputs, or connections, than can be")
    groups = {network: groups_of(real, counts.shape[1]) for network, counts in arrays.items()}
    means = {
        network: {name: _means(counts, members) for name, members in groups[network].items()}
        for network, counts in arrays.items()
    }
    return Film(title, steps, means, arrays, groups)


def _check_amount(steps: NDArray[np.int64], networks: Mapping[str, Any]) -> None:
    """Check that a picture of it all can be drawn, and in less than hours."""
    if len(steps) > MOST_FRAMES or not 0 < len(networks) <= _MOST_NETWORKS:
        raise ValueError(
            f"it has {len(steps)} frames of {len(networks)} networks; expected at most {MOST_FRAMES} frames of 1 to "
            f"{_MOST_NETWORKS} networks"
        )


def _means(counts: NDArray[np.unsignedinteger[Any]], members: NDArray[np.bool_]) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray((counts * members).sum(axis=1) / members.sum(axis=1))


def _of_means(title: str, file: Path) -> Film:
    with (
        open_regular(file, _MOST_BYTES_OF_MEANS) as (stream, _),
        io.TextIOWrapper(stream, encoding="utf-8", newline="") as lines,
    ):
        rows = list(csv.DictReader(lines))
    for name in ("step", "network", *_GROUPS):
        if any(row.get(name) is None for row in rows):
            raise ValueError(f"it has no column {name!r}, or a line ends before it")
    steps = check_steps("steps", np.array(sorted({int(row["step"]) for row in rows})))
    steps = steps[:: -(-len(steps) // MOST_FRAMES)]
    tables: dict[str, dict[int, dict[str, str]]] = {}
    for row in rows:
        tables.setdefault(row["network"], {})[int(row["step"])] = row
    _check_amount(steps, tables)
    for network, table in tables.items():
        if missing := [step for step in steps.tolist() if step not in table]:
            raise ValueError(f"it has no line of the network {network[:80]!r} at step {missing[0]:,}")
    means = {
        network: {name: np.array([float(table[int(step)][name] or "nan") for step in steps]) for name in _GROUPS}
        for network, table in tables.items()
    }
    if any((abs(values) > MOST_STEPS).any() for groups in means.values() for values in groups.values()):
        raise ValueError("it has more connections than can be")
    return Film(title, steps, means, {}, {})


class _Screen:
    """
    The picture, of which only what moves is drawn anew in each frame: drawing all of it takes far longer.

    :param film: the film
    """

    def __init__(self, film: Film) -> None:
        self.film = film
        rows = len(film.connections)
        self.figure = Figure(figsize=(11 if rows else 7, max(4.0, 1.9 * rows)), layout="constrained", dpi=80)
        grid = self.figure.add_gridspec(max(1, rows), 2 if rows else 1)
        self._title = self.figure.suptitle(film.title, parse_math=False)
        self._lines = dict(self._over_time(self.figure.add_subplot(grid[:, 0])))
        self._points: dict[tuple[str, str], tuple[PathCollection, Line2D]] = {}
        for row, network in enumerate(film.connections):
            self._features(self.figure.add_subplot(grid[row, 1]), network, is_last=row == rows - 1)
        self._moving = [*self._lines.values(), *(each for pair in self._points.values() for each in pair)]
        for artist in (self._title, *self._moving):
            artist.set_animated(True)
        self._canvas = FigureCanvasAgg(self.figure)
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(self.figure.bbox)

    def _over_time(self, axes: Axes) -> Iterator[tuple[tuple[str, str], Line2D]]:
        top = 0.0
        for (network, groups), style in zip(self.film.means.items(), cycle(LINES), strict=False):
            for name in ("real", "noise"):
                if not np.isnan(groups[name]).all():
                    (line,) = axes.plot([], [], style, color=_GROUPS[name][0], label=f"{network}: {name}")
                    top = max(top, float(np.nanmax(groups[name])))
                    yield (network, name), line
        axes.set(xlabel="environment steps", ylabel="mean connections per feature")
        axes.set(xlim=(self.film.steps[0], self.film.steps[-1]), ylim=(0, 1.3 * (top or 1)))  # the legend stands above
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend(fontsize="small", ncols=len(self.film.means), loc="upper left")
        axes.grid(alpha=0.3)

    def _features(self, axes: Axes, network: str, is_last: bool) -> None:
        counts = self.film.connections[network]
        for name, (color, size) in _GROUPS.items():
            if self.film.groups[network][name].any():
                points = axes.scatter([], [], s=size, color=color, label=name)
                mean = axes.axhline(0, color=color, linewidth=1)
                self._points[network, name] = points, mean
        axes.set(xlim=(-1, counts.shape[1]), ylim=(0, 1.05 * max(1, int(counts.max()))))
        axes.set(title=network, ylabel="connections", xlabel="input feature" if is_last else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)

    def show(self, frame: int) -> None:
        """Move everything to where it was in a frame."""
        film = self.film
        for (network, name), line in self._lines.items():
            line.set_data(film.steps[: frame + 1], film.means[network][name][: frame + 1])
        for (network, name), (points, mean) in self._points.items():
            inputs = np.flatnonzero(film.groups[network][name][frame])
            points.set_offsets(np.column_stack([inputs, film.connections[network][frame, inputs]]))
            mean.set_ydata([film.means[network][name][frame]] * 2)
        self._title.set_text(f"{film.title}: step {film.steps[frame]:,}")

    def shot(self, frame: int) -> Image.Image:
        """Draw a frame."""
        self.show(frame)
        self._canvas.restore_region(self._still)
        self.figure.draw_artist(self._title)
        for artist in self._moving:
            assert artist.axes is not None
            artist.axes.draw_artist(artist)
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba()).copy()).convert("RGB")


def check_ending(file: Path) -> None:
    """
    Check that an animation can be written in the format that a file's name asks for.

    :param file: the file
    :raises InputError: if not
    """
    if file.suffix.lower() != ENDING:
        raise InputError(f"{str(file)!r} is not the name of an animation that can be written: it must end in {ENDING}.")


def animate(film: Film, file: Path) -> None:
    """
    Write an animation, in one step: means over time for all networks, and every feature of each of them.

    :param film: what to show
    :param file: where to, a ``.gif``
    :raises InputError: if it has another ending
    :raises OSError: if it cannot be written
    """
    check_ending(file)
    screen = _Screen(film)
    first, *others = [screen.shot(frame) for frame in range(len(film.steps))]
    durations = [_MILLISECONDS] * len(others) + [_STILL]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        file,
        lambda stream: first.save(
            stream, format="gif", save_all=True, append_images=others, duration=durations, loop=0
        ),
    )

"""What the benchmarks share: the machine they ran on, spreads, and tables as Markdown and CSV."""

import argparse
import csv
import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from sparse_rl.training.experiment import commit

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "numpy", "numba", "stable_baselines3", "gymnasium", "mujoco", "sbx-rl", "jax", "sparselab")
Row = Mapping[str, object]


def parser(script: str, doc: str, threads: int, rounds: int) -> argparse.ArgumentParser:
    """Make a command line with the flags that all benchmarks have."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--threads", type=int, default=min(threads, len(cores())), help="default: %(default)s")
    result.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    folder = ROOT / "benchmarks" / "results" / script
    result.add_argument("--out", type=Path, default=folder, help="folder of the tables, default: %(default)s")
    return result


def cores() -> list[int]:
    """List the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def restart_with(threads: int) -> None:
    """Start this script again with so many threads and cores: libraries read the variables when they are loaded."""
    variables = thread_variables(threads)
    if any(os.environ.get(name) != value for name, value in variables.items()):
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores()[:threads])
        os.environ.update(variables)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def thread_variables(threads: int) -> dict[str, str]:
    """Give the environment variables that set the number of threads; libraries read them when they are loaded."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    variables = {f"{name}_NUM_THREADS": str(threads) for name in names}
    # JAX has no variable of its own: XLA's pools are as large as NPROC and the process's affinity say.
    eigen = "true" if threads > 1 else "false"
    return variables | {"NPROC": str(threads), "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen}"}


def machine(threads: int) -> list[str]:
    """Say where, when and with what the figures were measured."""
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return [
        f"{date.today()}, commit `{commit()}`, {threads} thread(s), load average {load:.1f}",
        f"{cpu()}, {os.cpu_count()} core(s), {platform.system()}",
        ", ".join(versions),
    ]


def cpu() -> str:
    """Name the processor and the widest SIMD instructions that PyTorch finds on it."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Give the median and the interquartile range."""
    if len(values) < 2:
        return values[0], 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), high - low


def write(folder: Path, name: str, notes: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a table, and write it to ``<name>.md`` and ``<name>.csv``; the rows need not have the same columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"- {note}" for note in notes]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    print(f"\n{name}\n{text}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Attack: files that name a module beside them. Importing it would run it, and nobody has said that it may be run."""

import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Payload, edit_config

from sparse_rl.commands.main import main
from sparse_rl.training.run_folder import file_name

SPARSE = {"policy_kwargs": {"net_arch": [16, 8]}, "sparsity": 0.5, "layers": "all", "distribution": "uniform"}
TRUST = "imports the package 'evil', which can run any code: add --trust"


def write_module(folder: Path, trace: Path) -> None:
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")


def write_run(folder: Path, template: Path, changes: dict[str, Any], **hyperparameters: Any) -> None:
    """Write what counts of a run when its agent shall act: a config.yml, and agents."""
    config = {"algo": "anf-sac", "env": "Pendulum-v1", **changes, "hyperparameters": {**SPARSE, **hyperparameters}}
    config["hyperparameters"].setdefault("method", {"name": "set"})
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    for name in ("best_model", file_name(config["env"])):
        shutil.copytree(template / "agent", folder / f"{name}.agent")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the current folder, which Python itself does not look in, as when `sparse-rl` is called."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path and Path(path) != Path.cwd()])
    monkeypatch.chdir(folder)
    yield folder
    sys.modules.pop("evil", None)


@pytest.fixture
def trap(here: Path, payload: Payload) -> Iterator[Path]:
    """Put a module into the current folder that must not be imported in this test."""
    write_module(here, payload.trace)
    yield here
    assert "evil" not in sys.modules


def test_the_trap_is_armed(here: Path, tmp_path: Path, template: Path) -> None:
    write_module(here, tmp_path / "trace")
    write_run(here, template, {"env": "evil:X-v0"})
    assert main(["evaluate", ".", "--trust"]) == 2  # it registers no X
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("best", [[], ["--best"]])
@pytest.mark.parametrize("algorithm", ["anf-sac", "evil:X-sac"])
def test_the_method_of_a_run_is_not_needed_to_let_it_act(
    trap: Path, template: Path, capsys: pytest.CaptureFixture[str], algorithm: str, best: list[str]
) -> None:
    write_run(trap, template, {"algo": algorithm}, method={"name": "evil:X", "power": 2})
    assert main(["evaluate", ".", "-n", "1", *best]) == 0
    assert capsys.readouterr().out.startswith(f"{algorithm} on Pendulum-v1")


@pytest.mark.parametrize(
    "changes",
    [
        {"algo": "evil:X"},
        {"algo": "anf-evil:X"},
        {"algo": "evil:X-evil:Y"},
        {"env": "evil:X-v0"},
        {"env": "evil:Pendulum-v1-noise50"},
    ],
)
def test_a_configuration_of_a_run(
    trap: Path, template: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    write_run(trap, template, changes)
    for words in ([], ["--best"]):
        assert main(["evaluate", ".", "-n", "1", *words]) == 2
        assert TRUST in capsys.readouterr().err


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"optimizer": "evil:X"},
        {"optimizer": {"name": "evil:X"}},
        {"policy": "evil:X"},
        {"policy_kwargs": {"activation_fn": "evil:X"}},
        {"policy_kwargs": {"optimizer_class": "evil.X"}},
        {"policy_kwargs": {"features_extractor_class": "evil.X"}},
        {"policy_kwargs": {"layer_class": "evil:X"}},
        {"replay_buffer_class": "evil:X"},
        {"callback": "evil.X"},
    ],
)
def test_hyperparameters_of_a_run_are_not_needed_to_let_it_act(
    trap: Path, template: Path, hyperparameters: dict[str, Any]
) -> None:
    write_run(trap, template, {}, **hyperparameters)
    assert main(["evaluate", ".", "-n", "1"]) == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("algorithm", "evil:X", "Unknown algorithm 'evil:X'"),
        ("policy", "evil:X", "Unknown policy of sparse_rl.agents.SAC 'evil:X'"),
        ("policy_kwargs", {"activation_fn": "evil:X"}, "Unknown activation_fn 'evil:X'"),
        ("policy_kwargs", {"optimizer_class": "evil.X"}, "Unknown optimizer_class 'evil.X'"),
    ],
)
def test_the_description_of_an_agent(
    trap: Path, agent: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any, message: str
) -> None:
    edit_config(agent, lambda config: config.update({key: value}))
    assert main(["evaluate", str(agent), "--env", "Pendulum-v1", "-n", "1"]) == 2
    assert message in capsys.readouterr().err


def test_the_card_of_an_agent(trap: Path, actor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (actor / "card.yml").write_text("{algorithm: 'evil:X', environment: 'evil:Y-v0', noise: no noise}")
    assert main(["evaluate", str(actor), "-n", "1"]) == 2
    assert TRUST in capsys.readouterr().err
    assert main(["evaluate", str(actor), "-n", "1", "--env", "Pendulum-v1"]) == 0


def test_runs_whose_curves_are_drawn(trap: Path, tmp_path: Path) -> None:
    """To tell whether one is the ceiling of the other, the newest version of an environment is looked for."""
    for environment in ("evil:X-noise90", "evil:X-v1", "evil:X"):
        folder = trap / "runs" / environment
        folder.mkdir(parents=True)
        (folder / "config.yml").write_text(
            yaml.safe_dump(
                {"algo": "evil:X-sac", "env": environment, "hyperparameters": {"method": {"name": "evil:X"}}}
            )
        )
        np.savez(folder / "evaluations.npz", timesteps=np.array([1]), results=np.ones((1, 1)))
        (folder / "0.monitor.csv").write_text("#{}\nr,l,t\n1,1,1\n")
    assert main(["plot", str(trap / "runs"), "-o", str(tmp_path / "out.png")]) == 0


@pytest.mark.parametrize("environment", ["Pendulum-v1", "os:Pendulum-v1"])  # what is imported already needs no trust
def test_nothing_in_the_current_folder_is_found_by_others(trap: Path, template: Path, environment: str) -> None:
    """Packages import others if they happen to be there: here they are a stranger's."""
    write_run(trap, template, {"env": environment})
    assert main(["evaluate", ".", "-n", "1", "--best"]) == 0
    assert find_spec("evil") is None

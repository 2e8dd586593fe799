"""Runs of many kinds: dense and sparse, permuted, in worker processes, with and without evaluations."""

import csv
import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from train_cases import ENV, QUICK, ROOT, Run, train

from sparse_rl.agents.sac import SAC
from sparse_rl.agents.saved import load_agent, save_agent, view_of
from sparse_rl.agents.td3 import TD3
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.commands.train import main
from sparse_rl.nn import SparseLinear
from sparse_rl.storage import load_tensors, save_tensors
from sparse_rl.training.callbacks import EvaluationCallback
from sparse_rl.training.evaluation import evaluate
from sparse_rl.training.experiment import EVALUATION_SEED_OFFSET
from sparse_rl.training.trained import open_trained


def test_what_is_saved_is_what_was_evaluated(tmp_path: Path) -> None:
    """The last evaluation comes after the last update: the same episodes give the same returns later."""
    assert train(f"--algo static-sac --env {ENV} -n 150 --seed 5 --eval-freq 1000 {QUICK}", tmp_path) == 0
    folder = tmp_path / "static-sac" / ENV / "1"
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [150]
        assert evaluations["results"][0].tolist() == evaluate(folder, 1, seed=5 + EVALUATION_SEED_OFFSET).tolist()


def test_dense_td3_in_an_ordinary_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All features are real, tables are printed, TensorBoard's files go elsewhere, and the second run is number 2."""
    words = f"--algo td3 --env Reacher-v5 -n 120 --eval-freq 60 --verbose 1 -tb {tmp_path}/tb {QUICK}"
    assert train(words, tmp_path) == train(words, tmp_path) == 0
    output = capsys.readouterr().out
    assert "total_timesteps" in output
    assert "connectivity/" not in output  # that is for TensorBoard: it would drown the rest
    assert "learning_starts" not in output
    run = Run(tmp_path / "td3" / "Reacher-v5" / "2", output)
    assert run.config()["hyperparameters"]["replay"] == "observed"
    assert not list(run.folder.glob("events*"))
    events = Run(tmp_path / "tb" / "td3" / "Reacher-v5" / "2", "").events()
    assert not [tag for tag in events.Tags()["scalars"] if "noise" in tag]
    assert events.Scalars("connectivity/actor_real")[-1].value == 16
    assert not [tag for tag in events.Tags()["scalars"] if "overlap" in tag]  # nothing is sparse
    assert events.Scalars("plasticity/srank_actor")[-1].step == 120
    TD3.load(run.folder / "Reacher-v5.zip", device="cpu")


@pytest.mark.parametrize(("kind", "protocol"), [("ar", "redrawn"), ("other", "observed")])
def test_noise_with_a_memory_and_other_environments(tmp_path: Path, kind: str, protocol: str) -> None:
    env = f"InvertedPendulum-noise80-{kind}"
    words = f"--env {env} --seed 3 -n 150 --eval-freq 100 {QUICK}"
    command = [sys.executable, "train.py", *words.split(), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{protocol} noise, seed 3" in done.stdout
    folder = tmp_path / "anf-sac" / env / "1"
    connections = list(csv.DictReader((folder / "connectivity.csv").read_text().splitlines()))
    assert all(float(row["noise"]) > 0 for row in connections)
    returns = [evaluate(folder, episodes=2, seed=4) for _ in range(2)]
    np.testing.assert_array_equal(*returns)


@pytest.mark.parametrize(
    ("algorithm", "changes", "change"),
    [
        ("gmp-td3", "--sparsity 0.7 --layers hidden --distribution uniform", -1),
        ("ne-sac", "--sparsity 0.4", 1),
        ("rigl-sac", "--layers input --sparsity 0.8", 0),
    ],
)
def test_networks_change_as_asked_and_can_be_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str, changes: str, change: int
) -> None:
    words = f"--algo {algorithm} --env {ENV} -n 200 --seed 1 --update-interval 20 --eval-freq 100 {changes} {QUICK}"
    assert main([*words.split(), str(tmp_path)]) == 0
    folder = tmp_path / algorithm / ENV / "1"
    model = (SAC if algorithm.endswith("sac") else TD3).load(folder / f"{ENV}.zip", device="cpu")
    actor = model.actor.mu if algorithm == "gmp-td3" else model.actor.latent_pi
    layers = [layer for layer in actor if isinstance(layer, SparseLinear)]
    assert layers
    assert all(layer.values.numel() == layer.budget.end for layer in layers)
    assert all(np.sign(layer.budget.end - layer.budget.start) == change for layer in layers)
    assert sparse_rl(["evaluate", str(folder), "-n", "1"]) == 0
    assert sparse_rl(["evaluate", str(folder), "-n", "1", "--best"]) == 0


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3 ignores it too; pytest undoes that
def test_permuted_features_in_worker_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The evaluation follows the training environment's phase, and is repeated in it; each worker has its monitor."""
    env = "Reacher-noise50-permute50"
    words = f"--algo anf-td3 --env {env} -n 200 --eval-freq 110 --n-envs 2 --vec-env subproc --progress {QUICK}"
    assert train(words, tmp_path) == 0
    folder = tmp_path / "anf-td3" / env / "1"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"0.monitor.csv", "1.monitor.csv", "best_model.zip", f"{env}.zip", "connectivity.png"}
    # 200 steps in 2 copies: 100 each, in episodes of 50, each followed by a reset into the next phase of 50 steps.
    last, best = folder / f"{env}.agent", folder / "best_model.agent"
    assert [view_of(load_agent(agent)).phase for agent in (last, best)] == [2, 2]
    seed = Run(folder, "").config()["seed"] + EVALUATION_SEED_OFFSET
    returns = [evaluate(folder, episodes=1, seed=seed, phase=phase) for phase in (None, 2, 1)]
    assert returns[0] == returns[1] != returns[2]
    capsys.readouterr()
    assert sparse_rl(["evaluate", str(folder), "--phase", "-1"]) == 2
    # In another environment that is permuted too, the order is still that of the agent ...
    assert evaluate(folder, 1, seed=seed).tolist() == returns[0].tolist()
    other = ["--env", "Reacher-noise50-permute70", "-n", "1", "--seed", str(seed)]
    capsys.readouterr()
    assert sparse_rl(["evaluate", str(folder), *other]) == 0
    title, result = capsys.readouterr().out.splitlines()
    assert title == f"anf-td3, trained in {env} with redrawn noise, last agent, acting in {other[1]}"
    assert result.startswith(f"return {returns[0].mean():.1f} ")
    # ... in one that is not, its features would be taken for others; and nobody guesses.
    assert sparse_rl(["evaluate", str(folder), "--env", "Reacher-noise50"]) == 2
    assert "not permuted, but the agent knows them in the order of phase 2" in capsys.readouterr().err
    save_agent(load_agent(last), tmp_path / "again")
    assert view_of(load_agent(tmp_path / "again")).phase == 2
    tensors, metadata = load_tensors(last / "model.safetensors")
    save_tensors(last / "model.safetensors", tensors, {"num_timesteps": metadata["num_timesteps"]})
    assert evaluate(folder, 1, seed=seed, phase=1).tolist() == returns[2].tolist()
    assert sparse_rl(["evaluate", str(folder)]) == 2
    assert "give the phase with --phase" in capsys.readouterr().err
    save_tensors(last / "model.safetensors", tensors, {**metadata, "phase": -1})
    assert sparse_rl(["evaluate", str(folder)]) == 2
    assert "must be a whole number of at least 0" in capsys.readouterr().err


def test_the_phase_of_the_best_agent_is_known_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in the agent's own file, so there is no moment in which one of the two is older."""
    env, seen = "CartPole-v1-noise50-permute20", []
    evaluated = EvaluationCallback.evaluate

    def look(self: EvaluationCallback) -> bool:
        goes_on = evaluated(self)
        seen.append((self.phase, open_trained(str(self.folder.path), best=True).phase))
        return goes_on

    monkeypatch.setattr(EvaluationCallback, "evaluate", look)
    words = f"--algo static-a2c --env {env} -n 60 --n-envs 1 --eval-freq 25 --eval-episodes 1 --seed 1 --kernel scatter"
    assert main([*words.split(), "-f", str(tmp_path)]) == 0
    assert len(seen) == 3
    assert all(phase == known for phase, known in seen)
    assert seen[-1][0] > 0
    assert "(best in this order of the features)" in capsys.readouterr().out


def test_curves_reach_an_evaluation_when_episodes_are_long(tmp_path: Path) -> None:
    assert train(f"--algo sac --env Reacher-noise50 -n 60 --log-interval 100 {QUICK}", tmp_path) == 0
    events = Run(tmp_path / "sac" / "Reacher-noise50" / "1", "").events()
    for tag in ("rollout/ep_rew_mean", "time/fps", "train/critic_loss", "connectivity/actor_real_abs"):
        assert events.Scalars(tag)[-1].step == 60


def test_no_evaluation(tmp_path: Path) -> None:
    assert train(f"--algo static-sac --env {ENV} -n 20 --eval-freq -1 {QUICK}", tmp_path) == 0
    names = {path.name for path in (tmp_path / "static-sac" / ENV / "1").iterdir()}
    assert f"{ENV}.zip" in names
    assert not names & {"evaluations.npz", "best_model.zip"}


def test_pictures_do_not_pile_up(tmp_path: Path) -> None:
    """They are made of objects that refer to each other, which stay until somebody looks for them."""
    gc.collect()
    gc.disable()
    try:
        assert train(f"--algo static-sac --env {ENV} -n 120 --eval-freq 30 {QUICK}", tmp_path) == 0
        pictures = [each for each in gc.get_objects() if type(each) is Figure]
    finally:
        gc.enable()
    assert len(pictures) <= 1  # that of the end

"""A trained agent, trained further: its networks, in a run of their own, by a recipe that says everything else."""

from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from comparing import assert_same_run, resume, run, run_in_parts, stop_at
from plan_cases import settle
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sparse_rl.agents import RedrawnReplayBuffer, load_agent, save_agent
from sparse_rl.commands.train import main
from sparse_rl.commands.train_arguments import public_command
from sparse_rl.inputs import InputError
from sparse_rl.nn import sparse_layers
from sparse_rl.sharing.bundle import _without_private
from sparse_rl.training import make_agent

ENV = "Pendulum-v1-noise80"
SMALL = "buffer_size:200 learning_starts:30 batch_size:16"
SHORT = f"--env {ENV} --seed 3 -n 60 --eval-freq 30 --eval-episodes 1 -params {SMALL}"
FIRST = f"{SHORT} policy_kwargs.net_arch:[16,24]"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of anf-sac that has ended."""
    return run(f"--algo anf-sac --update-interval 10 {FIRST}", tmp_path_factory.mktemp("before"))


def agent_of(run: Path) -> Path:
    return run / f"{ENV}.agent"


def test_it_begins_with_networks_and_temperature_and_all_else_is_the_recipes(before: Path) -> None:
    trained = load_agent(agent_of(before))
    model, _ = make_agent("anf-sac", ENV, trained_agent=before, seed=0, learning_rate=1e-4, buffer_size=300, tau=0.01)
    mine, its = model.policy.state_dict(), trained.policy.state_dict()
    assert mine.keys() == its.keys()
    assert all(th.equal(mine[name], its[name]) for name in mine)
    assert th.equal(model.log_ent_coef, trained.log_ent_coef)  # type: ignore[attr-defined]
    assert model.num_timesteps == 0
    assert isinstance(model, OffPolicyAlgorithm)
    assert isinstance(model.replay_buffer, RedrawnReplayBuffer)
    assert (model.replay_buffer.buffer_size, model.replay_buffer.pos) == (300, 0)
    assert (model.learning_rate, model.tau, model.batch_size) == (1e-4, 0.01, 256)  # not the former run's 16
    assert model.learning_starts == 100  # not 30


def test_what_the_recipe_leaves_open_is_the_learners_default_not_what_the_agent_had(tmp_path: Path) -> None:
    former, _ = make_agent("set-ppo", "CartPole-v1", seed=0, target_kl=0.1, n_steps=8, batch_size=8)
    save_agent(former, tmp_path)
    again, _ = make_agent("set-ppo", "CartPole-v1", seed=0, trained_agent=tmp_path)
    assert again.target_kl is None  # type: ignore[attr-defined]


def test_a_run_from_it(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(f"--algo rigl-sac --update-interval 10 {SHORT} -i {before}", tmp_path)
    assert f"the networks are those of '{agent_of(before)}'" in capsys.readouterr().out
    config = yaml.safe_load((folder / "config.yml").read_text())
    assert config["trained_agent"] == str(before)
    assert not {"sparsity", "distribution", "policy_kwargs"} & config["hyperparameters"].keys()
    first, second = (load_agent(agent_of(each)).policy for each in (before, folder))
    layers = zip(sparse_layers(first).values(), sparse_layers(second).values(), strict=True)
    assert all(a.values.shape == b.values.shape for a, b in layers)
    assert any(not th.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_can_be_stopped_and_continued_to_the_bit(before: Path, tmp_path: Path) -> None:
    words = f"--algo anf-sac --update-interval 10 {SHORT} -i {before}"
    assert_same_run(run(words, tmp_path / "whole"), run_in_parts(words, tmp_path / "parts", (20, 45)))


def test_it_cannot_be_continued_without_the_agent(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = agent_of(before).rename(before / "moved.agent")
    try:
        folder = stop_at(20, f"--algo anf-sac {SHORT} --trained-agent {agent}", tmp_path)
    finally:
        agent.rename(agent_of(before))
    assert resume(folder) == 2
    assert f"'{agent}'" in capsys.readouterr().err


def test_the_path_holds_wherever_one_stands(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(before.parent)
    assert settle("--env", ENV, "-i", before.name).trained_agent == str(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algo sac", "has sparse layers: give --algo static-sac"),
        ("--algo anf-td3", "is one of sparse_rl's SAC, and td3 is sparse_rl's TD3"),
        ("--algo anf-sac --sparsity 0.9", "so 'sparsity' would have no effect"),
        ("--algo anf-sac -params policy_kwargs.net_arch:[8]", "so 'policy_kwargs' would have no effect"),
        ("--algo screened-sac -params screening.level:0.1", "so 'screening' would have no effect"),
        ("--algo anf-sac -params normalize:true", "normalized otherwise than here: leave out 'normalize'"),
        ("--algo anf-sac --env Pendulum-v1-noise90", "an agent whose observation_space is"),
    ],
)
def test_what_does_not_fit_is_refused(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main([*SHORT.split(), *words.split(), "-i", str(before), "-f", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["nowhere", "anf-sac/Reacher-noise9", "."])
def test_where_there_is_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT.split(), "-i", where]) == 2
    assert "error: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_agents_of_the_zoo_only_act() -> None:
    with pytest.raises(InputError, match="was saved to act only, without critics: it cannot be trained further"):
        make_agent("anf-sac", "InvertedPendulum-noise90", trained_agent="anf-sac/InvertedPendulum-noise90")


def test_dense_networks_have_nothing_to_rewire(tmp_path: Path) -> None:
    dense, _ = make_agent("sac", ENV, seed=0, buffer_size=10)
    save_agent(dense, tmp_path)
    with pytest.raises(InputError, match="has no sparse layers, so there is nothing to rewire: give --algo sac"):
        make_agent("anf-sac", ENV, trained_agent=tmp_path, buffer_size=10)
    again, callbacks = make_agent("sac", ENV, trained_agent=tmp_path, buffer_size=10)
    assert callbacks == []
    assert all(map(th.equal, dense.policy.parameters(), again.policy.parameters()))


def test_screened_inputs_stay_as_they_were_chosen(tmp_path: Path) -> None:
    folder = run(f"--algo screened-sac {FIRST} learning_starts:60 -n 90", tmp_path / "a")
    summary = yaml.safe_load((folder / "summary.yml").read_text())
    layers = sparse_layers(load_agent(agent_of(folder)).policy).values()
    read = set((next(iter(layers)).topology.positions % 15).tolist())
    assert 0 < len(read) <= summary["features_chosen"] < 15
    again = run(f"--algo screened-sac {SHORT} -i {folder}", tmp_path / "b")
    after = sparse_layers(load_agent(agent_of(again)).policy).values()
    assert all(th.equal(a.topology.positions, b.topology.positions) for a, b in zip(layers, after, strict=True))
    assert "screening" not in yaml.safe_load((again / "config.yml").read_text())["hyperparameters"]
    assert "features_chosen" not in yaml.safe_load((again / "summary.yml").read_text())


def test_a_pruned_agent_keeps_its_weights(tmp_path: Path) -> None:
    def active(folder: Path) -> dict[str, int]:
        policy = load_agent(agent_of(folder)).policy
        return {name: layer.values.numel() for name, layer in sparse_layers(policy).items()}

    pruned = run(f"--algo gmp-sac --update-interval 5 {FIRST}", tmp_path / "first")
    for words in ("static-sac", "gmp-sac --update-interval 5"):
        assert active(run(f"--algo {words} {SHORT} -i {pruned}", tmp_path / words.partition(" ")[0])) == active(pruned)


def test_statistics_of_normalized_observations_go_on(tmp_path: Path) -> None:
    normalized = f"{FIRST} normalize:true"
    folder = run(f"--algo anf-sac {normalized}", tmp_path)
    model, _ = make_agent("anf-sac", ENV, trained_agent=folder, normalize=True, buffer_size=10)
    env = model.get_vec_normalize_env()
    assert isinstance(env, VecNormalize)
    assert env.obs_rms.count > 60  # type: ignore[union-attr]
    assert not np.allclose(env.obs_rms.mean, 0)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"give -params normalize\.norm_obs:true"):
        make_agent("anf-sac", ENV, trained_agent=folder, buffer_size=10)


def test_another_order_of_the_features_is_said_to_be_a_shift(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former, _ = make_agent("anf-sac", f"{ENV}-permute1000", buffer_size=10)
    save_agent(former, tmp_path / "agent", phase=2)
    run(f"--algo anf-sac {SHORT} -n 2 --env {ENV}-permute1000 -i {tmp_path / 'agent'}", tmp_path / "runs")
    assert "knows the features in the order of phase 2" in capsys.readouterr().out


def test_a_finished_run_says_how_its_agent_can_be_trained_further(
    before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(before) == 2
    assert f"--trained-agent {before}" in capsys.readouterr().err


def test_where_the_agent_lay_is_not_shared() -> None:
    config = _without_private({"algo": "sac", "trained_agent": "/home/me/mine.agent"}, public_command)
    assert config["trained_agent"] == "mine.agent"
    assert "/home" not in public_command("python train.py -i /home/me/mine.agent")

"""The zoo: every shipped agent is what its card says, on this machine too; what is not there gets a sentence."""

import csv
import math
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from _card import table as table_of
from zoo import BEGIN, END, _put_in_place
from zoo import main as publish

from sparse_rl.agents import load, load_agent
from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.agents.zoo import CARD, EXAMPLES, ZooAgent, find, zoo
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.envs import make
from sparse_rl.inputs import InputError
from sparse_rl.metrics import count_weights
from sparse_rl.sb3.networks import networks_of
from sparse_rl.storage import load_tensors
from sparse_rl.training.evaluation import returns_of
from sparse_rl.training.trained import open_trained
from sparse_rl.training.videos import watch

ROOT = Path(__file__).parents[1]
AGENTS = zoo()
QUICK = [agent for agent in AGENTS if agent.environment.startswith(("InvertedPendulum", "Reacher"))]
EPISODES = {"InvertedPendulum": 2, "Reacher": 20}  # of 1000 steps and more or less always the same return; of 50 steps
ENV = "InvertedPendulum-noise50"
FILES = {MODEL, CONFIG, CARD, EXAMPLES, "card.md", "connectivity.png", "learning_curve.csv"}
MOST_BYTES = 2_000_000


def name_of(agent: ZooAgent) -> str:
    return f"{agent.algorithm}-{agent.environment}"


def replay(agent: ZooAgent, episodes: int) -> None:
    """
    Compare the mean return of the first episodes with the card's.

    Sums that are rounded otherwise, as another processor does, make other trajectories after some hundred steps: the
    returns are then others of the same distribution. The means of two times n of them differ by a standard deviation of
    std * sqrt(2 / n); four of these are allowed, and 1 % for agents that always have the same return.
    """
    card = agent.card["return"]
    expected = np.array(card["each"][:episodes])
    returns = returns_of(open_trained(name_of_folder(agent)), episodes, card["seed"])
    tolerance = 4 * card["std"] * math.sqrt(2 / episodes) + 0.01 * abs(card["mean"])
    assert abs(returns.mean() - expected.mean()) <= tolerance


def name_of_folder(agent: ZooAgent) -> str:
    return f"{agent.algorithm}/{agent.environment}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of runs, of which one is finished."""
    root = tmp_path_factory.mktemp("zoo") / "runs"
    small = "buffer_size:500 learning_starts:40 batch_size:8 policy_kwargs.net_arch:[8,8]"
    words = f"--algo anf-td3 --env {ENV} -n 100 --eval-freq 60 --eval-episodes 2 --seed 3 --no-progress -f {root}"
    assert sparse_rl(["train", *words.split(), "-params", *small.split()]) == 0
    return root


@pytest.fixture(scope="module")
def entry(runs: Path) -> Path:
    """Give the folder of an agent that has been published."""
    assert publish([str(runs), "--out", str(runs.parent / "published"), "--episodes", "3"]) == 0
    return runs.parent / "published" / "anf-td3" / ENV


# What is shipped


def test_there_are_agents() -> None:
    assert QUICK


@pytest.mark.parametrize("agent", AGENTS, ids=name_of)
def test_an_entry_is_complete_small_and_says_nothing_of_where_it_was_made(agent: ZooAgent) -> None:
    assert {file.name for file in agent.folder.iterdir()} == FILES
    assert agent.size < MOST_BYTES
    card = agent.card
    assert (card["algorithm"], card["environment"]) == (agent.algorithm, agent.environment)
    result, training = card["return"], card["training"]
    assert len(result["each"]) == result["episodes"] == 20
    assert result["mean"] == pytest.approx(np.mean(result["each"]), abs=0.001)
    assert result["std"] == pytest.approx(np.std(result["each"]), abs=0.001)
    assert re.fullmatch(r"[0-9a-f]{40}", training["commit"])
    assert {"sparse_rl", "torch", "mujoco"} <= set(training["versions"])
    assert training["command"].startswith(("python train.py ", "sparse-rl train "))
    assert f"--algo {agent.algorithm} --env {agent.environment}" in training["command"]
    for text in (training["command"], (agent.folder / "card.md").read_text()):
        assert not re.search(r"(?<![\w.])/\w+/", text.replace("https://", "")), "a path of somebody's machine"
    with (agent.folder / "learning_curve.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps[-1] == training["steps"] >= card["agent"]["step"]


@pytest.mark.parametrize("agent", AGENTS, ids=name_of)
def test_it_acts_as_when_it_was_published(agent: ZooAgent) -> None:
    """Observations lead to the same actions on any machine, up to the rounding of sums of some hundred products."""
    model = load(agent.algorithm, agent.environment)
    examples, _ = load_tensors(agent.folder / EXAMPLES)
    actions, _ = model.predict(examples["observations"].numpy(), deterministic=True)
    np.testing.assert_allclose(actions, examples["actions"].numpy(), rtol=0, atol=1e-4)
    assert model.num_timesteps == agent.card["agent"]["step"]
    acting = networks_of(model.policy)["actor"].module(model.policy)
    assert count_weights(acting) == agent.card["cost"]["actor_weights"]


@pytest.mark.parametrize("agent", QUICK, ids=name_of)
def test_its_return_is_what_the_card_says(agent: ZooAgent) -> None:
    replay(agent, EPISODES[agent.environment.partition("-")[0]])


@pytest.mark.parametrize("agent", QUICK, ids=name_of)
def test_an_agent_that_does_nothing_is_noticed(agent: ZooAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(agent.algorithm, agent.environment)
    nothing = np.zeros((1, *(model.action_space.shape or ())), np.float32)
    monkeypatch.setattr(type(model), "predict", lambda *_, **__: (nothing, None))
    with pytest.raises(AssertionError):
        replay(agent, EPISODES[agent.environment.partition("-")[0]])


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS, ids=name_of)
def test_its_return_over_all_episodes_is_what_the_card_says(agent: ZooAgent) -> None:
    replay(agent, agent.card["return"]["episodes"])


def test_the_table_of_the_document_is_that_of_the_cards() -> None:
    table = (ROOT / "docs" / "zoo.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert table == f"\n{table_of(AGENTS)}\n"


# Loading


def test_an_agent_and_the_environment_in_which_it_acts() -> None:
    agent = QUICK[0]
    env = make(agent.environment)
    model = load(agent.algorithm, agent.environment, env=env)
    assert model.get_env() is not None
    with pytest.raises(ValueError, match="saved to act only"):
        model.learn(1)
    with pytest.raises(
        InputError, match=rf"was trained in {agent.environment}, whose observation_space is .*; that of"
    ):
        load(agent.algorithm, agent.environment, env=gym.make("CartPole-v1"))
    env.close()
    with pytest.raises(InputError, match="was trained in"):
        load(agent.algorithm, agent.environment, env="Pendulum-v1")


def test_agents_that_do_not_exist() -> None:
    agent = QUICK[0]
    with pytest.raises(InputError, match=r"Unknown algorithm of the zoo 'anf-sack'\. Did you mean 'anf-sac'"):
        load("anf-sack", agent.environment)
    with pytest.raises(
        InputError, match=rf"Unknown environment of {agent.algorithm} in the zoo .* '{agent.environment}'"
    ):
        load(agent.algorithm, agent.environment[:-1])


def test_the_other_algorithms_of_an_environment_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (f"anf-td3/{ENV}", "sac/Hopper-v5", f"sac/{ENV}"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / CARD).write_text("{}")
    monkeypatch.setattr("sparse_rl.agents.zoo.FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"Unknown environment of anf-td3 in the zoo 'Hopper-v5'.* there are: sac\."):
        find("anf-td3", "Hopper-v5")


# The commands


def test_the_list_and_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["zoo"]) == 0
    listed = capsys.readouterr().out
    for agent in AGENTS:
        assert re.search(rf"{agent.environment} +{agent.algorithm} +\w+ +{agent.card['return']['mean']:.1f}", listed)
    assert sparse_rl(["zoo", "show", QUICK[0].algorithm, QUICK[0].environment]) == 0
    assert (QUICK[0].folder / "card.md").read_text() in capsys.readouterr().out
    assert sparse_rl(["zoo", "show", "anf-sac"]) == 2
    assert "expected ALGO ENV" in capsys.readouterr().err


def test_agents_are_named_in_one_way(runs: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "anf-td3" / ENV / "1"
    titles = {}
    for name, words in {
        "run": [str(run)],
        "best": [str(run), "--best"],
        "last agent": [str(run / f"{ENV}.agent")],
        "best agent": [str(run / "best_model.agent")],
        "entry": [str(entry)],
        "zoo": [QUICK[0].algorithm, QUICK[0].environment],
        "zoo, one word": [name_of_folder(QUICK[0])],
    }.items():
        assert sparse_rl(["evaluate", *words, "-n", "2"]) == 0
        titles[name] = capsys.readouterr().out
    assert titles["run"].startswith(f"anf-td3 on {ENV}, trained with redrawn noise, last agent\nreturn ")
    assert titles["run"] == titles["last agent"]
    assert titles["best"] == titles["best agent"]
    assert titles["entry"].splitlines()[1] == titles["best"].splitlines()[1]
    assert titles["zoo"] == titles["zoo, one word"]
    assert titles["zoo"].startswith(
        f"{QUICK[0].algorithm} on {QUICK[0].environment}, trained with redrawn noise, agent"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "There is no run or agent in 'nowhere': expected a run's folder"),
        (["anf-sack", "Reacher-noise90"], "no such agent in the zoo. Unknown algorithm of the zoo 'anf-sack'. Did you"),
        (["a/b/c"], "There is no run or agent in 'a/b/c'"),
        (["a", "b", "c"], "expected one agent: a folder, or ALGO ENV of the zoo, not 'a b c'"),
        (["anf-sac", "Reacher-noise90", "--best"], "is not a run, so it has no best agent"),
        (["anf-sac", "Reacher-noise90", "--env", "Hopper-noise90"], "The agent cannot act in Hopper-noise90. Observat"),
        (["anf-sac", "Reacher-noise90", "--env", "Reacherr-noise90"], "Did you mean 'Reacher"),
        (["anf-sac", "Reacher-noise90", "--phase", "1"], "not permuted"),
        (["LOOSE"], "does not say in which environment it was trained: give one, for example --env"),
    ],
)
def test_agents_that_cannot_be_evaluated(
    entry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for file in (MODEL, CONFIG):
        (loose / file).write_bytes((entry / file).read_bytes())
    assert sparse_rl(["evaluate", *[str(loose) if word == "LOOSE" else word for word in words], "-n", "1"]) == 2
    assert message in capsys.readouterr().err
    if words == ["LOOSE"]:
        assert sparse_rl(["evaluate", str(loose), "--env", ENV, "-n", "1"]) == 0


def test_the_zoo_can_be_named_from_a_folder_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is a folder of that name, in which the runs are; and another one that the zoo knows nothing of."""
    for name in (name_of_folder(QUICK[0]), "sac/Nowhere-v0"):
        (tmp_path / name / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert sparse_rl(["evaluate", name_of_folder(QUICK[0]), "-n", "1"]) == 0
    assert sparse_rl(["evaluate", "sac/Nowhere-v0"]) == 2
    assert "There is no run in 'sac/Nowhere-v0'" in capsys.readouterr().err


def test_what_is_watched_is_what_is_evaluated() -> None:
    trained = open_trained(name_of_folder(QUICK[-1]))
    env = trained.env()
    watched = list(islice(watch(trained, env, 5, None, lambda: None), 3))
    env.close()
    assert watched == pytest.approx(returns_of(trained, 3, 5))  # these are rounded to six decimals


def test_other_noise_than_it_was_trained_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["evaluate", "anf-sac", "Reacher-noise90", "--env", "Reacher-noise90-std2", "-n", "1"]) == 0
    title = "anf-sac, trained in Reacher-noise90 with redrawn noise, agent of the zoo, acting in Reacher-noise90-std2"
    assert capsys.readouterr().out.startswith(f"{title}\n")


# The tool


def test_publishing(runs: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {file.name for file in entry.iterdir()} == FILES
    assert {path.name for path in entry.parents[1].iterdir()} >= {"anf-td3"}
    assert not list(entry.parents[1].glob(".partial*"))
    card: dict[str, Any] = yaml.safe_load((entry / CARD).read_text())
    assert card["return"]["episodes"] == 3
    assert str(runs) not in (entry / CARD).read_text() + (entry / "card.md").read_text()
    command = f"sparse-rl train --algo anf-td3 --env {ENV} -n 100 --eval-freq 60 --eval-episodes 2 --seed 3 -params "
    assert card["training"]["command"].startswith(command)
    trained = open_trained(str(runs / "anf-td3" / ENV / "1"), best=True)
    assert returns_of(trained, 3, 1_000_000) == pytest.approx(card["return"]["each"], abs=0.001)
    assert load_agent(entry).num_timesteps == trained.model.num_timesteps == card["agent"]["step"]
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in entry.iterdir()}
    assert publish([str(runs), "--out", str(entry.parents[1]), "--episodes", "3"]) == 0
    assert "is published already" in capsys.readouterr().out
    assert {name: (entry / name).read_bytes() for name in before} == {name: old for name, (_, old) in before.items()}
    assert (entry / MODEL).stat().st_mtime_ns == before[MODEL][0]


def test_what_was_published_is_not_lost_if_it_cannot_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "card").write_text("old")
    with pytest.raises(FileNotFoundError):
        _put_in_place(tmp_path / "entry that is not there", target, tmp_path / "former")
    assert (target / "card").read_text() == "old"


def test_what_cannot_be_published_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 0
    assert "There is no finished run in" in capsys.readouterr().err
    monkeypatch.setattr("zoo.MOST_BYTES", 1000)
    assert publish([str(runs), "--out", str(tmp_path / "out"), "--episodes", "1"]) == 1
    assert "more than the 1,000 that an agent may have" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/*/*"))


def test_what_a_strangers_card_says_is_shown_as_text(tmp_path: Path) -> None:
    shutil.copytree(QUICK[0].folder, tmp_path / "mine")
    card = {**QUICK[0].card, "algorithm": "sac\x1b[31m", "noise": "red\x1b]0;title\a"}
    (tmp_path / "mine" / CARD).write_text(yaml.safe_dump(card))
    title = open_trained(str(tmp_path / "mine")).title
    assert title.isprintable()
    assert "of the zoo" not in title

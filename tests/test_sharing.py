"""Sharing agents: what goes to the hub and comes back, and what is refused. The hub is a stand-in on this machine."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from hub_stand_in import TOKEN, StandIn, stand_in
from huggingface_hub.utils import disable_progress_bars

from sparse_rl.agents import load_agent
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.commands.train import main as train
from sparse_rl.commands.train_arguments import public_command
from sparse_rl.inputs import InputError
from sparse_rl.sharing.bundle import MOST_BYTES
from sparse_rl.training.evaluation import evaluate
from sparse_rl.training.resuming import CIRCUMSTANCES, differences

# huggingface_hub 2.4 uploads by an argument that its HTTP library would like to have under another name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ENV = "CartPole-v1-noise50"
REPOSITORY = "me/anf-a2c-CartPole"
WORDS = f"--algo static-a2c --env {ENV} --kernel scatter -n 40 --n-envs 1 --seed 3 --eval-episodes 1 --num-threads 1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    assert train([*WORDS.split(), "-f", str(root)]) == 0
    return root / "static-a2c" / ENV / "1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    # Its own storage protocol, Xet, speaks to other servers; without it the library uses Git LFS.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    with stand_in() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def pushed(hub: StandIn, run: Path) -> StandIn:
    assert sparse_rl(["push", str(run), REPOSITORY, "-n", "2"]) == 0
    return hub


def test_there_and_back(pushed: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["pull", REPOSITORY, "-o", "mine"]) == 0
    assert "sparse-rl evaluate mine" in capsys.readouterr().out
    before, after = (
        load_agent(run / f"{ENV}.agent").policy.state_dict(),
        load_agent(Path("mine") / f"{ENV}.agent").policy.state_dict(),
    )
    assert all(np.array_equal(after[name], tensor) for name, tensor in before.items())
    assert (Path("mine") / "evaluations.npz").read_bytes() == (run / "evaluations.npz").read_bytes()
    for folder in ("mine", str(run)):
        assert sparse_rl(["evaluate", folder, "-n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    assert sparse_rl(["push", "mine", "me/again", "-n", "0"]) == 0  # what was pulled is a run like any other
    assert not list(Path().glob(".*.partial"))


def test_only_safe_files_are_uploaded(pushed: StandIn) -> None:
    names = set(pushed.files[REPOSITORY]) - {".gitattributes"}
    assert names == {*MOST_BYTES} - {"card.yml"}
    assert pushed.by_lfs == {"model.safetensors"}


def test_nothing_of_the_own_disk_is_told(pushed: StandIn, run: Path) -> None:
    root = str(run.parents[2]).encode()
    assert not [name for name, content in pushed.files[REPOSITORY].items() if root in content]
    settings = yaml.safe_load(pushed.files[REPOSITORY]["config.yml"])
    assert settings["command"] == f"python train.py {WORDS}"
    assert "platform" not in settings


def test_what_changed_when_a_run_was_continued_does_not_tell_the_platform(hub: StandIn, run: Path) -> None:
    shutil.copytree(run, "mine")
    config = yaml.safe_load((run / "config.yml").read_text())
    former = {"versions": {"torch": "1.0"}, "platform": "Plan-9-of-mine", "commit": "abc"}
    changes = differences(former, {key: config[key] for key in CIRCUMSTANCES})
    assert any("Plan-9-of-mine" in change for change in changes)
    config["resumed"] = [{"step": 20, "changes": changes}]
    (Path("mine") / "config.yml").write_text(yaml.safe_dump(config))
    assert sparse_rl(["push", "mine", REPOSITORY, "-n", "0"]) == 0
    for content in hub.files[REPOSITORY].values():
        assert b"Plan-9-of-mine" not in content
        assert config["platform"].encode() not in content
    (record,) = yaml.safe_load(hub.files[REPOSITORY]["config.yml"])["resumed"]
    assert record["step"] == 20
    assert any(change.startswith("versions.torch is ") for change in record["changes"])


def test_files_of_an_earlier_agent_go(pushed: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pushed.files[REPOSITORY]["notes.md"] = b"of the owner"
    shutil.copytree(run / "best_model.agent", "alone")
    assert sparse_rl(["push", "alone", REPOSITORY]) == 0
    assert set(pushed.files[REPOSITORY]) == {
        "README.md",
        "config.json",
        "model.safetensors",
        ".gitattributes",
        "notes.md",
    }
    assert sum("/commit/main" in request for request in pushed.requests) == 2
    capsys.readouterr()
    assert sparse_rl(["pull", REPOSITORY, "-o", "bare"]) == 0
    assert "sparse-rl evaluate bare --env ID" in capsys.readouterr().out  # it is of no run


def test_commands_lose_their_folders() -> None:
    expected = "python train.py --algo sac --conf-file my.yml -params gamma:0.9 n_steps:2"
    for private in (
        "-f '/home/me/my runs' --tensorboard-log=/home/me/tb -tb /home/me",
        "-f/home/me/runs -tb=/home/me/tb --no-progress",
        "-Pf/home/me/runs --tensorboard-log /home/me/tb",
        "--log-folder=/home/me --log-folder /home/me --verbose=1",
    ):
        command = f"python train.py {private} --algo=sac -conf /home/me/my.yml -params gamma:0.9 n_steps:2"
        assert public_command(command).replace("-conf my", "--conf-file my") == expected
    with pytest.raises(InputError, match="cannot be read"):
        public_command("python train.py --unknown /home/me")


def test_the_card(pushed: StandIn, run: Path) -> None:
    text = pushed.files[REPOSITORY]["README.md"].decode()
    _, head, body = text.split("---\n", 2)
    metadata = huggingface_hub.ModelCard(text).data  # the hub's own reader
    assert metadata.library_name == "sparse_rl"
    assert {"reinforcement-learning", ENV, "static-a2c"} <= set(metadata.tags)
    (result,) = metadata.eval_results
    assert (result.task_type, result.dataset_name, result.metric_type) == ("reinforcement-learning", ENV, "mean_reward")
    mean = result.metric_value.split(" +/- ")[0]
    assert float(mean) == pytest.approx(evaluate(run, 2).mean(), abs=0.005)
    for part in (f"# static-a2c on {ENV}", "over 2 episodes, seed 1000000", "environment steps | 40", WORDS, "torch ",
                 f"sparse-rl pull {REPOSITORY}"):  # fmt: skip
        assert part in body
    assert yaml.safe_load(head)["model-index"][0]["name"] == "static-a2c"


def test_the_best_agent_of_a_run(hub: StandIn, run: Path) -> None:
    assert sparse_rl(["push", str(run / "best_model.agent"), "me/one", "-n", "1"]) == 0
    assert sparse_rl(["push", str(run), "me/other", "--best", "-n", "1"]) == 0
    one, other = hub.files["me/one"], hub.files["me/other"]
    assert one["README.md"].replace(b"me/one", b"me/other").replace(b" one", b" other") == other["README.md"]
    assert {name: one[name] for name in set(one) - {"README.md"}} == {
        name: other[name] for name in set(other) - {"README.md"}
    }


def test_an_agent_without_a_run(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run / "best_model.agent", "alone")
    assert sparse_rl(["push", "alone", "me/bare", "--private"]) == 0
    assert hub.private["me/bare"]
    assert "model-index" not in hub.files["me/bare"]["README.md"].decode()
    assert sparse_rl(["pull", "me/bare"]) == 0
    assert "sparse-rl evaluate bare --env ID" in capsys.readouterr().out
    assert sparse_rl(["push", "bare", "me/told", "--env", ENV, "-n", "2"]) == 0
    card = hub.files["me/told"]["README.md"].decode()
    assert f"return in `{ENV}`" in card
    assert f"sparse-rl evaluate told --env {ENV}" in card


def test_an_agent_of_the_zoo(hub: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["push", "anf-sac", "InvertedPendulum-noise90", "me/pendulum", "-n", "1"]) == 0
    names = set(hub.files["me/pendulum"]) - {".gitattributes"}
    assert names == {"README.md", "card.yml", "config.json", "connectivity.png", "model.safetensors"}
    assert "# anf-sac on InvertedPendulum-noise90" in hub.files["me/pendulum"]["README.md"].decode()
    assert sparse_rl(["pull", "me/pendulum"]) == 0
    capsys.readouterr()
    assert sparse_rl(["evaluate", "pendulum", "-n", "1"]) == 0
    assert sparse_rl(["evaluate", "anf-sac", "InvertedPendulum-noise90", "-n", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("anf-sac on InvertedPendulum-noise90")
    assert lines[1] == lines[3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"damaged", "is not a safetensors file"),
        ("config.json", b"{}", "config.json"),
        ("config.yml", b"!!python/object/apply:os.system [id]", "error in"),
        ("config.yml", b"{env: .., hyperparameters: {}}", "impossible name, '..'"),
        ("config.yml", b"{env: model.safetensors, hyperparameters: {}}", "impossible name"),
        ("connectivity.png", b"<svg>", "is no picture"),
        ("evaluations.npz", b"PK", "is damaged"),
        ("summary.yml", b"[1]", "does not hold keys"),
        ("card.yml", b"[1]", "does not hold keys"),
    ],
)
def test_what_is_not_as_it_should_be_is_not_kept(
    pushed: StandIn, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    pushed.files[REPOSITORY][name] = content
    assert sparse_rl(["pull", REPOSITORY, "-o", "mine"]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_pickled_arrays_are_not_loaded(pushed: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "bad.npz", results=np.array([{"an": "object"}], dtype=object))
    pushed.files[REPOSITORY]["evaluations.npz"] = (tmp_path / "bad.npz").read_bytes()
    assert sparse_rl(["pull", REPOSITORY, "-o", "mine"]) == 2
    assert "allow_pickle" in capsys.readouterr().err
    assert not Path("mine").exists()


def test_other_files_are_left_where_they_are(pushed: StandIn) -> None:
    for name in ("best_model.zip", "../evil.py", "hook.py"):
        pushed.files[REPOSITORY][name] = b"code"
    assert sparse_rl(["pull", REPOSITORY, "-o", "mine"]) == 0
    assert {path.name for path in Path("mine").iterdir()} == {*MOST_BYTES, f"{ENV}.agent"} - {
        "card.yml",
        "model.safetensors",
        "config.json",
    }
    assert not any("zip" in request or ".py" in request for request in pushed.requests)


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_what_is_too_large_is_not_fetched(pushed: StandIn, capsys: pytest.CaptureFixture[str], name: str) -> None:
    pushed.claimed_sizes[name] = MOST_BYTES[name] + 1
    assert sparse_rl(["pull", REPOSITORY, "-o", "mine"]) == 2
    assert f"may have {MOST_BYTES[name]:,}" in capsys.readouterr().err
    assert not any("/resolve/" in request for request in pushed.requests)


def test_nothing_is_overwritten(pushed: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    (Path("mine") / "work").write_text("of a year")
    assert sparse_rl(["pull", REPOSITORY, "-o", "mine"]) == 2
    assert "give another folder with -o" in capsys.readouterr().err
    assert (Path("mine") / "work").read_text() == "of a year"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pull me/nothing", "There is no repository 'me/nothing' at http://127.0.0.1:"),
        ("pull me/empty", "'me/empty' holds no agent of sparse_rl: there is no model.safetensors and no config.json, "
         "but ppo.zip"),
        ("pull me/empty --revision v9", "has no such revision"),
        ("pull nothing", "named owner/name, for example you/anf-sac-Hopper-noise95, not 'nothing'"),
        ("pull ../../etc", "named owner/name"),
        ("push {run} nothing", "named owner/name"),
        ("push {run}/nowhere me/it", "There is no run or agent in"),
        ("push anf-sac HalfCheetah-nois98 me/it", "Did you mean"),
        ("push {run}/best_model.agent me/it --best", "leave out --best"),
        ("push {run}/nowhere me/it --best", "There is no run or agent in"),
        ("push {run} somebody-else/it -n 0", "the token is not valid, or may not do that"),
    ],
)  # fmt: skip
def test_sentences(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    hub.files["me/empty"] = {"ppo.zip": b"PK"}
    assert sparse_rl([word.format(run=run) for word in words.split()]) == 2
    assert message in capsys.readouterr().err


def test_no_token(hub: StandIn, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert sparse_rl(["push", str(run), REPOSITORY]) == 2
    assert "There is no token" in capsys.readouterr().err
    assert not hub.requests


def test_no_network(hub: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert sparse_rl(["pull", REPOSITORY]) == 2
    assert f"error: {url} cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "extra"), [("push a me/it", "hub"), ("pull me/it", "hub"), ("tune", "tune")])
def test_a_package_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, extra: str
) -> None:
    monkeypatch.setattr("sparse_rl.names.find_spec", lambda name: None)
    assert sparse_rl(words.split()) == 2
    assert f"pip install -c constraints.txt -e '.[{extra}]'" in capsys.readouterr().err


def test_uploads_are_in_one_commit(pushed: StandIn) -> None:
    assert sum("/commit/main" in request for request in pushed.requests) == 1
    assert json.loads(pushed.files[REPOSITORY]["config.json"])

"""The animation of connections: what a run keeps for it, what it shows, and what is answered where there is nothing."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from torch import nn

from sparse_rl.checkpoints.trees import pack, unpack
from sparse_rl.commands.main import main
from sparse_rl.plots.animation import _Screen, read_film
from sparse_rl.storage import load_tensors, save_tensors
from sparse_rl.training.film import MOST_FRAMES, FilmCallback, Frame
from sparse_rl.training.measurement import measure
from sparse_rl.training.pictures import connectivity_picture
from sparse_rl.training.run_folder import RunFolder

REAL = np.array([True, False, False, False])
GROUPS = ("real", "noise")


def frame(look: int, value: int) -> Frame:
    return Frame(look, 10 * look, REAL, {"actor": np.array([value, 1, 1, 1], np.uint16)})


class Camera(FilmCallback):
    """Looks at numbers instead of networks."""

    value = 0

    def _frame(self) -> Frame:
        return frame(self._looks, self.value)


def camera(folder: RunFolder) -> Camera:
    return Camera(folder, 10)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "anf-sac", "Hopper-noise90")


def test_what_does_not_move_is_kept_once(folder: RunFolder) -> None:
    film = camera(folder)
    for value in (5, 5, 5, 6, 6, 5):
        film.value = value
        film._look()
    assert [each.look for each in film.frames] == [0, 3, 5]


def test_however_long_a_run_its_film_stays_short(folder: RunFolder) -> None:
    film = camera(folder)
    for film.value in range(10 * MOST_FRAMES):
        film._look()
    looks = [each.look for each in film.frames]
    assert MOST_FRAMES // 2 <= len(looks) <= MOST_FRAMES
    assert looks[0] == 0
    assert set(np.diff(looks)) == {16}
    film.save()
    with np.load(folder.path / "connectivity.npz") as content:
        assert content["steps"][-1] == 10 * film._looks  # as it is now, too
        assert content["actor"].dtype == np.uint16
        assert content["actor"][:-1, 0].tolist() == looks


def test_a_film_of_any_length_can_be_animated(folder: RunFolder) -> None:
    """Whenever a run ends: the last frame is how the networks are then, however many there are before it."""
    write_config(folder.path)
    film = camera(folder)
    for n_looks in range(1, 2 * MOST_FRAMES + 2):
        film.value = 2 * n_looks
        film._look()
        film.value += 1
        film.save()
        read = read_film(folder.path)
        assert 2 <= len(read.steps) <= MOST_FRAMES
        assert (read.steps[-1], read.connections["actor"][-1, 0]) == (10 * n_looks, 2 * n_looks + 1)


def test_a_film_goes_on_from_a_checkpoint(folder: RunFolder, tmp_path: Path) -> None:
    """Through a file, as checkpoints are."""
    whole, first, second = camera(folder), camera(folder), camera(folder)
    for value in range(400):
        for film in (whole, first if value < 150 else second):
            film.value = value // 2
            film._look()
        if value == 149:
            save_tensors(tmp_path / "state", pack(first.keep()), {})
            tensors, _ = load_tensors(tmp_path / "state", 2**20)
            second._look()  # as a run that goes on begins
            second.restore(unpack(tensors))
    assert len(second.frames) == len(whole.frames)
    assert all(a.shows_the_same_as(b) and a.step == b.step for a, b in zip(whole.frames, second.frames, strict=True))
    assert second.keep()["gap"] == whole.keep()["gap"]


# The animation


def run_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_config(folder)
    return folder


def write_config(folder: Path) -> None:
    (folder / "config.yml").write_text(yaml.safe_dump({"algo": "anf-sac", "env": "X-noise50", "hyperparameters": {}}))


def film_of_three(folder: Path) -> Path:
    """Two networks, of which one sees an action; then features change places."""
    real = np.array([[True, False, False], [True, False, False], [False, False, True]])
    actor = np.array([[2, 2, 2], [4, 1, 1], [1, 0, 5]], np.uint16)
    critic = np.array([[2, 2, 2, 6], [4, 1, 1, 7], [1, 0, 5, 8]], np.uint16)
    np.savez(run_folder(folder) / "connectivity.npz", steps=np.array([0, 100, 250]), real=real, actor=actor, qf0=critic)
    return folder


def test_means_follow_the_features(tmp_path: Path) -> None:
    film = read_film(film_of_three(tmp_path / "run"))
    assert film.means["actor"]["real"].tolist() == [2, 4, 5]
    assert film.means["actor"]["noise"].tolist() == [2, 1, 0.5]
    assert film.means["qf0"]["action"].tolist() == [6, 7, 8]
    assert np.isnan(film.means["actor"]["action"]).all()


def test_each_frame_shows_its_moment(tmp_path: Path) -> None:
    screen = _Screen(read_film(film_of_three(tmp_path / "run")))
    for place, feature, step in ((0, 0, "0"), (1, 0, "100"), (2, 2, "250")):
        screen.show(place)
        points, mean = screen._points["qf0", "real"]
        value = [2, 4, 5][place]
        assert points.get_offsets().tolist() == [[feature, value]]
        assert mean.get_ydata() == [value, value]
        assert screen.figure.get_suptitle() == f"anf-sac on X-noise50: step {step}"
        assert len(screen._lines["actor", "noise"].get_xdata()) == place + 1


def test_more_networks_than_line_styles_are_all_drawn(tmp_path: Path) -> None:
    names = ["actor", "qf0", "qf1", "qf2", "qf3", "qf4"]
    counts = {name: np.array([[2, 1], [1, 2]], np.uint16) for name in names}
    real = np.array([[True, False]] * 2)
    np.savez(run_folder(tmp_path / "run") / "connectivity.npz", steps=np.array([0, 100]), real=real, **counts)
    assert set(_Screen(read_film(tmp_path / "run"))._lines) == {(name, kind) for name in names for kind in GROUPS}
    layer = nn.Linear(2, 2)
    measurements = [measure(step, name, layer, real[0]) for step in (0, 100) for name in names]
    figure = connectivity_picture(measurements, {"actor": counts["actor"][0]}, real[0], "six")
    drawn = {line.get_label() for line in figure.axes[0].get_lines()}
    assert drawn == {f"{name}: {kind}" for name in names for kind in GROUPS}


def test_the_animation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = film_of_three(tmp_path / "run"), tmp_path / "new" / "film.gif"
    assert main(["plot", str(folder), "--connectivity", "-o", str(out)]) == 0
    assert f"3 frames: {out}" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.format == "GIF"
        assert image.n_frames == 3
        duration = 0
        for place in range(image.n_frames):
            image.seek(place)
            duration += image.info["duration"]
    assert duration == 100 + 100 + 2000


def test_runs_may_have_means_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "step,network,real,noise,action,real_abs,noise_abs,action_abs\n"
    rows = "".join(f"{step},{name},{step},1.5,,1,1,\n" for step in range(400) for name in ("actor", "qf0"))
    (run_folder(tmp_path / "run") / "connectivity.csv").write_text(header + rows)
    film = read_film(tmp_path / "run")
    assert 2 <= len(film.steps) <= 128
    assert film.means["qf0"]["real"].tolist() == film.steps.tolist()
    (tmp_path / "run" / "connectivity.csv").write_text(header + rows[: rows.index("3,actor")])
    assert main(["plot", str(tmp_path / "run"), "--connectivity", "-o", str(tmp_path / "a.gif")]) == 0
    assert "has kept only means" in capsys.readouterr().err
    with Image.open(tmp_path / "a.gif") as image:
        assert image.format == "GIF"


def refused(folder: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["plot", str(folder), *more, "--connectivity", "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert not out.exists()
    return error


def test_nothing_to_animate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "out.gif", run_folder(tmp_path / "run")
    assert "There is no folder" in refused(tmp_path / "nowhere", out, capsys)
    (folder / "evaluations.npz").touch()
    assert f"is not a run's folder. Runs below it: {folder}." in refused(tmp_path, out, capsys)
    (folder / "evaluations.npz").unlink()
    assert "There is no run in" in refused(tmp_path, out, capsys)
    assert "has neither connectivity.npz nor connectivity.csv" in refused(folder, out, capsys)
    assert "animates one run, not 2" in refused(folder, out, capsys, str(folder))
    still = np.ones((1, 3), np.uint16)
    np.savez(folder / "connectivity.npz", steps=np.array([0]), real=still > 0, actor=still)
    assert "never changed, so there is nothing to animate" in refused(folder, out, capsys)
    for damaged in (b"half a file", (folder / "connectivity.npz").read_bytes()[:200]):
        (folder / "connectivity.npz").write_bytes(damaged)
        assert "connectivity.npz' is damaged" in refused(folder, out, capsys)
    np.savez(folder / "connectivity.npz", steps=np.array([0, 1]), real=still > 0, actor=still)
    assert "do not belong together" in refused(folder, out, capsys)
    np.savez(folder / "connectivity.npz", steps=np.array([0, 1]), real=np.array([{}, {}]), actor=still)
    assert "is damaged: its array 'real' cannot be read: Object arrays" in refused(folder, out, capsys)
    (folder / "connectivity.npz").unlink()
    (folder / "connectivity.csv").write_text("step,network\nx,actor\n")
    assert "connectivity.csv' is damaged" in refused(folder, out, capsys)


def test_the_csv_and_the_film_agree(tmp_path: Path) -> None:
    """In a real run, whose connections move."""
    words = (
        "train --algo anf-sac --env InvertedPendulum-noise50 -n 120 --seed 2 --eval-freq -1 --update-interval 20 "
        "--no-progress -params learning_starts:20 buffer_size:200 batch_size:16 policy_kwargs.net_arch:[16,16] -f"
    )
    assert main([*words.split(), str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("*/*/1")
    film = read_film(folder)
    assert list(film.connections) == ["actor", "qf0", "qf1"]
    assert {counts.dtype for counts in film.connections.values()} == {np.dtype(np.uint8)}  # at most 16 connections
    assert film.steps[0] == 0
    assert len(film.steps) == 1 + 4  # updates after 20, 40, 60 and 80 gradient steps; the last ones change no more
    with (folder / "connectivity.csv").open() as file:
        rows = {(int(row["step"]), row["network"]): row for row in csv.DictReader(file)}
    for network, groups in film.means.items():
        for place, step in enumerate(film.steps):
            row = rows[int(step), network]
            for name in ("real", "noise", *(["action"] if network != "actor" else [])):
                assert groups[name][place] == pytest.approx(float(row[name]))

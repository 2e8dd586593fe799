"""``sparse-rl record``: a video of a trained agent, also where there is no display."""

import argparse
from pathlib import Path

from sparse_rl.commands import enjoy
from sparse_rl.commands.naming import open_agent
from sparse_rl.commands.threads import one_thread

DESCRIPTION = "Make a video of a trained agent. It needs no display."

EXAMPLES = """\
examples:
  sparse-rl record runs/anf-sac/HalfCheetah-noise98/1 -o cheetah.mp4
  sparse-rl record anf-sac HalfCheetah-noise98 -o cheetah.mp4 --steps 300
  sparse-rl record anf-sac InvertedPendulum-noise90 -o pendulum.gif      without ffmpeg
  MUJOCO_GL=osmesa sparse-rl record anf-sac Hopper-noise95 -o hopper.mp4

MuJoCo renders with EGL if it can, else with OSMesa, on the CPU; MUJOCO_GL chooses one. To install ffmpeg, for .mp4:
pip install -c constraints.txt -e '.[video]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    enjoy.add_arguments(parser)
    parser.set_defaults(episodes=1)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help=".mp4 or .gif (default: video.mp4, or video.gif without ffmpeg)"
    )


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Record an agent.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input, or if nothing can be drawn here
    :raises OSError: if the file cannot be written
    """
    from sparse_rl.training.videos import check_format, choose_gl, has_ffmpeg, record

    out: Path = args.out or Path("video.mp4" if has_ffmpeg() else "video.gif")
    check_format(out)
    trained = open_agent(args)
    if trained.needs_mujoco:
        choose_gl()
    print(trained.title)
    with one_thread():
        returns, n_frames = record(trained, out, args.episodes, args.seed, args.steps)
    for episode, total in enumerate(returns, 1):
        print(f"episode {episode}: return {total:.1f}")
    print(f"{out}: {n_frames:,} frames, {out.stat().st_size / 1000:,.0f} kB")
    return 0

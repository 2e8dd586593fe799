"""The model card: a page of Markdown that says what an agent is, with a head of YAML, of which the hub makes tables."""

from typing import Any

import yaml

from sparse_rl.sharing.bundle import Bundle
from sparse_rl.training.run_folder import PICTURE

_VERSIONS = ("sparse_rl", "python", "torch", "stable_baselines3", "gymnasium", "mujoco", "numba", "numpy")


def model_card(bundle: Bundle, repository: str) -> str:
    """
    Write the card of an agent.

    :param bundle: the agent
    :param repository: where it is shared, as ``owner/name``
    :return: the text of ``README.md``
    """
    settings = bundle.settings or {}
    name = repository.partition("/")[2]
    title = f"{bundle.algorithm} on {bundle.trained_in}" if bundle.algorithm else name
    parts = [
        f"---\n{yaml.safe_dump(_head(bundle, name), sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        "An agent of `sparse_rl`: truly sparse networks and dynamic sparse training for deep reinforcement learning, "
        "on Stable-Baselines3.",
        _table(bundle),
    ]
    if PICTURE in bundle.files:
        parts.append(f"![How many connections real and noise features have]({PICTURE})")
    parts.append(_usage(bundle, repository))
    if settings.get("command"):
        needed = "\n\nThis takes the agent that it began with." * ("trained_agent" in settings)
        parts.append(f"## Train it again\n\n```sh\n{settings['command']}\n```{needed}")
    if isinstance(versions := settings.get("versions"), dict):
        known = ", ".join(f"{package} {versions[package]}" for package in _VERSIONS if package in versions)
        commit = f"; commit `{settings['commit']}`" if settings.get("commit") else ""
        parts.append(f"Trained with {known}{commit}.")
    parts.append(
        "No file here holds a pickle. `pull` and `load_agent` check them before they use them. That the agent does "
        "what this page says, they cannot check."
    )
    return "\n\n".join(parts) + "\n"


def _head(bundle: Bundle, name: str) -> dict[str, Any]:
    """Give the metadata that the hub knows: https://huggingface.co/docs/hub/model-cards."""
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "stable-baselines3", "sparse-training"]
    head: dict[str, Any] = {"library_name": "sparse_rl", "tags": tags}
    tags += [name for name in (bundle.trained_in, bundle.algorithm) if name]
    if bundle.evaluated_in is not None:
        metric = {
            "type": "mean_reward",
            "value": f"{bundle.returns.mean():.2f} +/- {bundle.returns.std():.2f}",
            "name": "mean_reward",
            "verified": False,
        }
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {
            "task": task,
            "dataset": {"name": bundle.evaluated_in, "type": bundle.evaluated_in},
            "metrics": [metric],
        }
        head["model-index"] = [{"name": bundle.algorithm or name, "results": [result]}]
    return head


def _table(bundle: Bundle) -> str:
    rows: list[tuple[str, str]] = []
    if bundle.evaluated_in is not None:
        returns = bundle.returns
        what = f"{returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} episodes, seed {bundle.seed}"
        rows.append((f"return in `{bundle.evaluated_in}` (mean +/- standard deviation, without exploration)", what))
    before = (bundle.settings or {}).get("trained_agent_steps")
    more = f", after the {before:,} of the agent whose networks it began with" if isinstance(before, int) else ""
    rows.append(("environment steps", f"{bundle.num_timesteps:,}{more}"))
    known = (("algorithm", bundle.algorithm), ("trained in", bundle.trained_in), ("trained with", bundle.noise))
    rows += [(name, what if name == "trained with" else f"`{what}`") for name, what in known if what]
    if bundle.settings is not None:
        rows.append(("seed of training", str(bundle.settings.get("seed"))))
    for key, name in (("seconds", "seconds of training"), ("weights", "weights of all networks")):
        if isinstance(number := bundle.summary.get(key), int | float):
            rows.append((name, f"{number:,}"))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {what} |" for name, what in rows)])


def _usage(bundle: Bundle, repository: str) -> str:
    name = repository.partition("/")[2]
    act = f"sparse-rl evaluate {name}"
    if bundle.trained_in is None or bundle.evaluated_in not in (None, bundle.trained_in):
        act += f" --env {bundle.evaluated_in or 'ID'}"
    return f"## Use it\n\n```sh\nsparse-rl pull {repository}\n{act}\n```"

"""The card of an agent of the zoo, for people; and the table of all agents. Both say what ``card.yml`` says."""

from collections.abc import Sequence
from typing import Any

from sparse_rl.agents.zoo import ZooAgent

CARD = """\
# {algorithm} on {environment}

![Connections over training, and those of the actor when it ended](connectivity.png)

| | |
|---|---|
| return | {mean:.1f} +/- {std:.1f} (standard deviation) over {episodes} episodes |
| which agent | {which}, at step {step:,} |
| trained for | {steps:,} steps, seed {seed}, with {noise} |
| wall-clock time of training | {seconds:,.0f} s, evaluations and whatever else the machine did included |
| weights of all networks | {weights:,}, {density:.0%} of the dense ones |
| weights of the actor, which is what is here | {actor_weights:,} |
| operations for an action | {inference_flops:,} FLOPs; dense {dense_inference_flops:,} |
| operations of training | {training_flops:.3g} FLOPs; dense {dense_training_flops:.3g} |
| commit | `{commit}` |
| versions | {versions} |

```python
import sparse_rl
from sparse_rl.agents import load

model, env = load("{algorithm}", "{environment}"), sparse_rl.envs.make("{environment}")
observation, _ = env.reset(seed=0)
action, _ = model.predict(observation, deterministic=True)
```

## How it was trained

```sh
{command}
```

The learning curve is `learning_curve.csv`: the mean and the standard deviation of the returns of
{eval_episodes} episodes at each evaluation.

## How it was evaluated

```sh
sparse-rl evaluate {algorithm} {environment} -n {episodes} --seed {evaluation_seed}
```

without exploration. The agent was chosen by the evaluations of its training, which had other episodes: the return
above is not the one that it was chosen for. It is that of one agent, from one seed of training, and says little about
the algorithm: other seeds can be far from it ([Henderson et al. 2018](https://arxiv.org/abs/1709.06560)).
"""


def render(card: dict[str, Any]) -> str:
    """Put a card into words, as Markdown."""
    values = {**card, **card["return"], **card["agent"], **card["training"], **card["cost"]}
    values["versions"] = ", ".join(f"{name} {version}" for name, version in card["training"]["versions"].items())
    values["density"] = card["cost"]["weights"] / card["cost"]["dense_weights"]
    values["evaluation_seed"] = card["return"]["seed"]
    values |= {key: card["training"][key] for key in ("seed", "commit", "command")}
    return CARD.format_map(values)


def table(agents: Sequence[ZooAgent]) -> str:
    """List agents in a table, as Markdown."""
    lines = [
        "| environment | algorithm | noise | return | steps | weights | of dense | kB |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for agent in agents:
        card = agent.card
        cost, result = card["cost"], card["return"]
        path = f"../sparse_rl/agents/zoo_agents/{agent.algorithm}/{agent.environment}/card.md"
        lines.append(
            f"| `{agent.environment}` | [`{agent.algorithm}`]({path}) | {card['noise'].removesuffix(' noise')} | "
            f"{result['mean']:.1f} +/- {result['std']:.1f} | {card['training']['steps']:,} | {cost['weights']:,} | "
            f"{cost['weights'] / cost['dense_weights']:.0%} | {agent.size / 1000:,.0f} |"
        )
    return "\n".join(lines) + "\n"

"""Train an agent: ``python train.py --help`` says how."""

from sparse_rl.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

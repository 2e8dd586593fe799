"""``python -m sparse_rl`` is ``sparse-rl``."""

if __name__ == "__main__":
    from sparse_rl.commands.main import main

    raise SystemExit(main())

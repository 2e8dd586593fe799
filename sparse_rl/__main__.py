"""``python -m sparse_rl`` is ``sparse-rl``."""

if __name__ == "__main__":
    try:
        from sparse_rl.commands.main import main

        code = main()
    except KeyboardInterrupt:  # during the imports
        code = 130
    raise SystemExit(code)

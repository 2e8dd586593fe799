"""Train an agent: ``python train.py --help`` says how."""

if __name__ == "__main__":
    try:
        from sparse_rl.commands.train import main

        code = main()
    except KeyboardInterrupt:  # during the imports, which take a moment
        code = 130
    raise SystemExit(code)

"""
The command line: ``sparse-rl``, with one module for each of its commands; ``train.py`` is one of them.

A command is a module with ``DESCRIPTION`` and ``EXAMPLES`` (texts for its help), ``add_arguments(parser)``, and
``run(args, words)``, which returns the exit code. :mod:`sparse_rl.commands.main` lists them all. Bad input is a
``ValueError`` or an ``OSError`` whose message is for the user. What names a trained agent is read by
:mod:`sparse_rl.commands.naming`, for all commands alike. PyTorch and what imports it are imported inside ``run``,
when they are needed, so that help and typos are answered at once.
"""

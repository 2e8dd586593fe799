"""
Run a script until it ends, or until the process that started it is gone: ``lifeline.py SCRIPT [WORD ...]``.

Standard input is the lifeline. However its other end dies, kill -9 included, the operating system closes it; a run that
nobody waits for would otherwise take a core for hours, and write beside the one that replaces it.
"""

import os
import runpy
import sys
from pathlib import Path
from threading import Thread


def watch() -> None:
    """Wait for the lifeline to be cut."""
    os.read(0, 1)  # not sys.stdin, whose lock Python wants at the end
    os._exit(1)


if __name__ == "__main__":
    Thread(target=watch, daemon=True).start()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")

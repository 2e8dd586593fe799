"""Which signals end training."""

import signal


def ending_signals() -> list[signal.Signals]:
    """
    List the signals that end training cleanly.

    :return: SIGINT, SIGTERM and, where there is one and ``nohup`` has not switched it off, SIGHUP: the terminal is gone
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers

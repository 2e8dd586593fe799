"""Replay buffers, how much memory they take, and the way from them to a batch: gathered, turned, normalized."""

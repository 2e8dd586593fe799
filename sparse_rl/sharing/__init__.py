"""
Sharing agents on the Hugging Face hub (https://huggingface.co): only files that are safe to load, whoever made them.

- :mod:`sparse_rl.sharing.bundle`: the files that are shared, and how large they may be
- :mod:`sparse_rl.sharing.card`: the page that people read first
- :mod:`sparse_rl.sharing.hub`: to the hub and back
"""

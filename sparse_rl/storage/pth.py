"""
Tensors from PyTorch's own files, which are pickles inside of zip archives, without trusting them.

``torch.load(weights_only=True)`` runs no code of the file's. But it makes bytes, tensors and nested tuples of any size
that a file of some bytes asks for, so it comes last: first the archive is checked, then which words the pickle uses,
then the tensors are made without memory, on PyTorch's meta device, and must be no larger than what is stored.
"""

import io
import pickletools
import zipfile

import torch
from torch import Tensor

from sparse_rl.inputs import first_line
from sparse_rl.storage.archives import read_members
from sparse_rl.storage.reading import StorageError

MOST_PICKLE_BYTES = 2**20
MOST_OPCODES = 20_000  # a tensor takes about 30; also bounds how deep a pickle can nest, whose end would be a crash
MOST_SHARING = 16  # tensors of one storage, on average: critics whose weights lie side by side
_STORAGES = ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double")
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}Storage" for name in _STORAGES),
}
_OPCODES = {
    "PROTO", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "MARK",
    "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS",
}  # fmt: skip


def load_pth(content: bytes, where: str) -> dict[str, Tensor]:
    """
    Read a dictionary of tensors, such as a ``state_dict()``, from what ``torch.save`` wrote.

    :param content: the content of the file
    :param where: what is read, for error messages
    :return: the tensors by name, on the CPU
    :raises StorageError: if it is not such a file, holds anything else than tensors, or tensors that are larger than
        what is stored
    """
    members = read_members(io.BytesIO(content), len(content), where)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise StorageError(f"{where} is not a file of torch.save.")
    _check_pickle(members[pickles[0]], where)
    archive = _written_anew(members)
    sketch = _load(archive, "meta", where)
    needed = [tensor.untyped_storage().nbytes() for tensor in sketch.values()]
    if max(needed, default=0) > len(content) or sum(needed) > MOST_SHARING * len(content):
        raise StorageError(f"{where} asks for more memory than it fills: it is damaged, or was made to harm.")
    return _load(archive, "cpu", where)


def _check_pickle(content: bytes, where: str) -> None:
    """Look at the words of a pickle, without doing what they say."""
    if len(content) > MOST_PICKLE_BYTES:
        raise StorageError(f"The pickle of {where} has more than {MOST_PICKLE_BYTES:,} bytes.")
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count == MOST_OPCODES:
                raise StorageError(f"The pickle of {where} has more than {MOST_OPCODES:,} opcodes.")
            if opcode.name not in _OPCODES:
                raise StorageError(f"The pickle of {where} has the opcode {opcode.name}, which tensors do not need.")
            if opcode.name == "GLOBAL" and argument not in _GLOBALS:
                raise StorageError(f"The pickle of {where} names {str(argument)[:80]!r}, which is no part of a tensor.")
    except StorageError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise StorageError(f"The pickle of {where} is damaged: {error}.") from error


def _written_anew(members: dict[str, bytes]) -> bytes:
    """Pack the members again: PyTorch has a reader of its own, and shall see what was checked."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return archive.getvalue()


def _load(archive: bytes, device: str, where: str) -> dict[str, Tensor]:
    try:
        loaded = torch.load(io.BytesIO(archive), map_location=device, weights_only=True)
    except Exception as error:
        raise StorageError(f"{where} is damaged: {first_line(error)}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and type(tensor) in (Tensor, torch.nn.Parameter) for name, tensor in loaded.items()
    ):
        raise StorageError(f"{where} holds something else than tensors with names.")
    return {name: tensor.detach() for name, tensor in loaded.items()}

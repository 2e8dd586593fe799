"""
To the Hugging Face hub and back, by its own library, ``huggingface_hub``.

The environment variable ``HF_ENDPOINT`` names another server than the public one, ``HF_TOKEN`` a token.
"""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.inputs import InputError, first_line
from sparse_rl.sharing.bundle import CARD, MOST_BYTES, Bundle, unpack
from sparse_rl.sharing.card import model_card
from sparse_rl.storage import StorageError
from sparse_rl.version import __version__

# What all errors of the HTTP library derive from; which library that is, depends on the version.
_HTTP_ERROR = cast("type[Exception]", HfHubHTTPError.__bases__[0])


def check_repository(repository: str) -> None:
    """
    Check the name of a repository.

    :param repository: its name
    :raises InputError: if it is not ``owner/name``
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII) or ".." in repository:
        raise InputError(
            f"A repository is named owner/name, for example you/anf-sac-Hopper-noise95, not {repository!r}."
        )


def check_push(repository: str) -> None:
    """
    Check what can be checked before an upload, without the network.

    :param repository: the name of the repository
    :raises InputError: if it is not ``owner/name``, or there is no token
    """
    check_repository(repository)
    if get_token() is None:
        raise InputError(
            "There is no token of the Hugging Face hub, which uploads need: `hf auth login` keeps one, and HF_TOKEN "
            "gives one. Tokens are made at https://huggingface.co/settings/tokens."
        )


def push(bundle: Bundle, repository: str, private: bool = False) -> str:
    """
    Upload an agent, in one commit; the repository is made if there is none. Files of an agent that was there before go.

    :param bundle: the agent
    :param repository: its name, ``owner/name``
    :param private: whether a new repository can be seen by its owner only
    :return: the address of the commit
    :raises InputError: if that is not possible; the message says why
    """
    check_push(repository)
    api = _api()
    files = {**bundle.files, CARD: model_card(bundle, repository).encode()}
    with _sentences(repository, api.endpoint):
        api.create_repo(repository, private=private or None, exist_ok=True)
        there = {each.rfilename for each in api.model_info(repository).siblings or []}
        # With another run's config.yml, say, this agent would be taken for one of that run.
        stale = [name for name in MOST_BYTES if name in there and name not in files]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *(CommitOperationDelete(name) for name in stale),
        ]
        commit = api.create_commit(repository, operations, commit_message="Upload an agent of sparse_rl")
    return str(commit.commit_url)


def pull(repository: str, folder: Path, revision: str | None = None) -> str:
    """
    Download an agent. It is put into its place only once it has been checked.

    :param repository: the name of its repository, ``owner/name``
    :param folder: where it shall be; there must be nothing there yet
    :param revision: a branch, a tag or a commit; by default the newest
    :return: the commit that it is of
    :raises ValueError: if there is none, or a file is too large or not what it should be
    :raises OSError: if it cannot be written
    """
    check_repository(repository)
    if folder.exists() or folder.is_symlink():
        raise InputError(f"There is something in {str(folder)!r} already: give another folder with -o.")
    api = _api()
    with tempfile.TemporaryDirectory(prefix="sparse-rl-") as cache:
        with _sentences(repository, api.endpoint):
            commit, names = _files(api, repository, revision)
            paths = {
                name: Path(api.hf_hub_download(repository, name, revision=commit, cache_dir=cache)) for name in names
            }
        _put_in_place({name: _inside(path, Path(cache)) for name, path in paths.items()}, folder)
    return commit


def _api() -> HfApi:
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="sparse_rl", library_version=__version__)


def _files(api: HfApi, repository: str, revision: str | None) -> tuple[str, list[str]]:
    """List the files that are an agent's, of one commit, and refuse those that are too large to be fetched."""
    info = api.model_info(repository, revision=revision, files_metadata=True)
    sizes = {each.rfilename: each.size for each in info.siblings or []}
    if info.sha is None or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise StorageError(f"The hub does not say of which commit {repository!r} is.")
    if missing := [name for name in (MODEL, CONFIG) if name not in sizes]:
        others = ", ".join(sorted(sizes)[:10]) or "no files"
        raise StorageError(
            f"{repository!r} holds no agent of sparse_rl: there is no {' and no '.join(missing)}, but {others}. Zip "
            "files of Stable-Baselines3 are read by sparse_rl.agents.safe_load."
        )
    names = [name for name in MOST_BYTES if name in sizes]
    for name in names:
        size = sizes[name]
        if size is None or size > MOST_BYTES[name]:
            raise StorageError(
                f"{name!r} of {repository!r} has {'an unknown number of' if size is None else f'{size:,}'} bytes, and "
                f"may have {MOST_BYTES[name]:,}."
            )
    return info.sha, names


def _inside(path: Path, cache: Path) -> Path:
    """Follow a link of the cache to the file itself, which has to be in the cache too."""
    file = path.resolve(strict=True)
    if not file.is_relative_to(cache.resolve()):
        raise StorageError(f"{path.name!r} leads out of the folder of downloads.")
    return file


def _put_in_place(files: dict[str, Path], folder: Path) -> None:
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    staging.mkdir()
    try:
        for name, file in files.items():
            if file.stat().st_size > MOST_BYTES[name]:
                raise StorageError(f"{name!r} has {file.stat().st_size:,} bytes, and may have {MOST_BYTES[name]:,}.")
            shutil.copyfile(file, staging / name)
        unpack(staging)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _sentences(repository: str, endpoint: str) -> Iterator[None]:
    """Say what went wrong in a sentence for people; the hub's own messages are for programmers."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise InputError(
            f"There is no repository {repository!r} at {endpoint}, or it is private and your token may not see it."
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repository!r} has no such revision: leave it out for the newest.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"{endpoint} refuses access to {repository!r}: the token is not valid, or may not do that."
            ) from error
        raise InputError(f"{endpoint} answered with an error, {status}: {error.server_message or error}") from error
    except RuntimeError as error:  # of an upload by Git LFS
        raise InputError(f"The upload to {repository!r} at {endpoint} failed: {error.__cause__ or error}") from error
    except (_HTTP_ERROR, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise InputError(f"{endpoint} cannot be reached: {first_line(error)}") from error

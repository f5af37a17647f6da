"""Where files lie: local paths and fsspec addresses behind one face, and their failures in our words.

Options of a remote file system (an endpoint, keys) come from fsspec's own configuration and its backends' environment
variables (``FSSPEC_S3_ENDPOINT_URL``, ``AWS_PROFILE``, ``HF_TOKEN``), never from settings of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rds_dagster.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LOCAL_SCHEMES = ("file", "local")
EXTRAS = {"s3": "s3", "s3a": "s3"}  # scheme -> the extra of this package that brings its backend

# What backends raise beside OSError, by module; only looked up where the backend is loaded.
_FOREIGN_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
)


def local_path(address: str) -> str | None:
    """The path of a local address (``file://`` taken off), or None for a remote one."""
    scheme, separator, rest = address.partition("://")
    if not separator or "/" in scheme:
        return address
    return rest if scheme in LOCAL_SCHEMES else None


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a remote address and the path within it.

    Raises MissingExtraError where its backend is not installed, InputError where the scheme is unknown or the address is chained (``a::b``).
    """
    import fsspec

    scheme = address.partition("://")[0]
    if "::" in address:
        raise InputError(f"{address} is a chained address; only plain ones are read: unpack the files, or copy them to a folder, and name that")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        mend = f"pip install 'rds-dagster[{extra}]'" if extra else "pip install the package that this sentence names"
        raise MissingExtraError(f"{address} cannot be opened: the backend for {scheme}:// is not installed ({error}); {mend}") from error
    except ValueError as error:
        raise InputError(f"{address} starts with the unknown scheme {scheme}://; expected a path, s3://, hf:// or another scheme of fsspec") from error
    with readable(address):
        found, path = fsspec.core.url_to_fs(address)
    return found, path


@contextmanager
def readable(address: str) -> Iterator[None]:
    """Turn the failures of file systems inside the block into an InputError that names ``address``."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{address} does not exist; put the file there, or correct `source` (a file that was listed a moment ago has gone since)") from error
    except PermissionError as error:
        raise InputError(f"{address} may not be read ({error}); give this user the right to read it, or correct the credentials") from error
    except _failures() as error:
        raise InputError(f"{address} cannot be read: {type(error).__name__}: {error}; check the address and the connection, then run again") from error


def _failures() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in _FOREIGN_ERRORS)
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))

import os
import socket
import subprocess
import sys

import pytest

from rds_dagster.errors import InputError, MissingExtraError
from rds_dagster.pools.addresses import file_system, local_path, readable


def test_paths_and_file_addresses_are_local():
    assert local_path("data/a.jsonl") == "data/a.jsonl"
    assert local_path("/data/a.jsonl") == "/data/a.jsonl"
    assert local_path("file:///data/a.jsonl") == "/data/a.jsonl"
    assert local_path("a/b://c") == "a/b://c"
    assert local_path("s3://bucket/a.jsonl") is None
    assert local_path("hf://datasets/a/b") is None


def test_an_unknown_scheme_and_a_chain_are_named():
    with pytest.raises(InputError, match=r"s4://b/x.jsonl starts with the unknown scheme s4://; expected a path, s3://, hf://"):
        file_system("s4://b/x.jsonl")
    with pytest.raises(InputError, match=r"zip://a.jsonl::s3://b/x.zip is a chained address; only plain ones are read: unpack the files"):
        file_system("zip://a.jsonl::s3://b/x.zip")


@pytest.mark.parametrize(
    ("package", "address", "mend"), [("s3fs", "s3://b/x", "pip install 'rds-dagster[s3]'"), ("huggingface_hub", "hf://datasets/a/b", "pip install")]
)
def test_a_missing_backend_is_named_with_what_brings_it(package, address, mend):
    """In a process of its own, where the package cannot be imported."""
    code = f"import sys; sys.modules[{package!r}] = None\nfrom rds_dagster.pools.addresses import file_system\nfile_system({address!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert f"{MissingExtraError.__name__}: {address} cannot be opened: the backend for {address.partition(':')[0]}:// is not installed" in last
    assert package in last
    assert mend in last


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (FileNotFoundError(2, "no such file"), "x.jsonl does not exist; put the file there"),
        (PermissionError(13, "denied"), "x.jsonl may not be read .*denied.*give this user the right"),
        (ConnectionResetError("reset by peer"), "x.jsonl cannot be read: ConnectionResetError: reset by peer; check the address and the connection"),
    ],
)
def test_failures_of_the_file_system_become_input_errors_with_their_cause(failure, words):
    with pytest.raises(InputError, match=words) as caught, readable("x.jsonl"):
        raise failure
    assert caught.value.__cause__ is failure


def test_a_hub_that_does_not_answer_is_an_input_error():
    code = "from pathlib import Path\nfrom rds_dagster.pools.files import list_files\nlist_files('hf://datasets/a/b/*.jsonl', root=Path('/'))"
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert "InputError: hf://datasets/a/b/*.jsonl cannot be read: ConnectError: " in done.stderr.strip().splitlines()[-1]

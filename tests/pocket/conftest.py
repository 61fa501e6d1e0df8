"""A small render set, and a single thread for small networks."""

import pytest
import torch
from sets import write_set


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Multithreading slows small networks down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def renders_folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("renders") / "set")

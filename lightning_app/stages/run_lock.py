"""The lock of a run folder: a second run that writes there is refused."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules import UserError
from modules.distributed import is_main_process

FILE = ".lock"


@contextmanager
def locked(run_dir: str | Path, key: str = "--run_dir") -> Iterator[None]:
    """Hold a run folder, which is made if absent; the main process does so for all processes of its run.

    The lock goes with the process, however that ends; the file stays.

    Args:
        run_dir: the folder.
        key: option that names another one, for the message.

    Raises:
        UserError: another run holds it, or it cannot be written.
    """
    if not is_main_process():
        yield
        return
    try:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        opened = (Path(run_dir) / FILE).open("a+")
    except OSError as error:
        raise UserError(f"{run_dir} cannot be written ({error.strerror}): name another folder with {key}") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{run_dir} is being written by another run (process {file.read().strip() or 'unknown'}): wait for it, "
                f"stop it, or give this one a folder of its own with {key}"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child process may still have it open

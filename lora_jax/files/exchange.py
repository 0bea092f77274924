"""Two folders exchange their names in one system call: renameat2 of Linux, renamex_np of macOS."""

import ctypes
import errno
import functools
import os
import pathlib
import sys
from collections.abc import Callable

_HERE = -100  # AT_FDCWD: a path as it is
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBUSY, errno.EPERM, errno.EXDEV}


def exchanged(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Exchanges them; False, and nothing is changed, where the system or the disk cannot.

    Raises:
      OSError: when it fails for another reason, a folder that is not there say.
    """
    swap = _function()
    if swap is None:
        return False
    number = swap(os.fsencode(one), os.fsencode(other))
    if number and number not in _CANNOT:
        raise OSError(number, os.strerror(number), os.fspath(other))
    return not number


@functools.cache
def _function() -> Callable[[bytes, bytes], int] | None:
    """(path, path) -> error number, 0 for done; None where there is none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        rename = library.renameat2 if sys.platform == "linux" else library.renamex_np
    except (OSError, AttributeError, TypeError):
        return None

    def swap(one: bytes, other: bytes) -> int:
        ctypes.set_errno(0)
        if sys.platform == "linux":
            failed = rename(_HERE, one, _HERE, other, ctypes.c_uint(_SWAP))
        else:
            failed = rename(one, other, ctypes.c_uint(_SWAP))
        return ctypes.get_errno() if failed else 0

    return swap

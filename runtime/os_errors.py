"""Errors of the operating system in words: what is wrong, where, and what helps, by the number of the error."""

import errno
import os
import re

MAX_PATH = 120  # characters of a path that are printed

SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # by numpy, which does not say why
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What helps against each error that a user can do something about; all others are faults of the program.
ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "mount that disk for writing",
    errno.ENOENT: "make the folder that is missing, or correct the link that leads nowhere",
    errno.ENOTDIR: "move away the file that is in place of a folder",
    errno.EISDIR: "move away the folder that is in place of a file",
    errno.EEXIST: "move away the file or link that has this name",
    errno.ENOTEMPTY: "end the other program that writes there",
    errno.ELOOP: "remove the links that lead in a circle",
    errno.ENAMETOOLONG: "use a name of at most 255 bytes",
    errno.EXDEV: "use a folder instead of a link to another disk",
    errno.EMFILE: "raise the limit of open files with ulimit -n 4096",
    errno.ENFILE: "end other programs, which have too many files open",
    errno.ENOMEM: "free memory",
    errno.ENXIO: "name a file that can be read and written",
    errno.ETXTBSY: "end the program that uses it",
    errno.EBUSY: "end the program that uses it",
    errno.ESTALE: "run the same command again, since the network disk was away",
}


def in_words(error: OSError, default: object) -> str:
    """Return an error as "where: what: what helps"; `default` is where it happened if the error does not say so."""
    paths = [_shortened(str(path)) for path in (error.filename, error.filename2) if path is not None]
    where = " -> ".join(paths) or str(default)
    number = error.errno
    fault = error.strerror or str(error)
    if SHORT_WRITE.fullmatch(fault):
        number = errno.ENOSPC
        fault = os.strerror(number)
    if number in ADVICE:
        fault = f"{fault}: {ADVICE[number]}"
    return f"{where}: {fault}"


def _shortened(path: str) -> str:
    """Return a path that fits a line."""
    return path if len(path) <= MAX_PATH else f"{path[: MAX_PATH // 2]}...{path[-MAX_PATH // 2 :]}"

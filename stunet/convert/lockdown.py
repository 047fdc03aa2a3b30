"""Take from this process all that reading one open file does not need.

Runs in the process that `reading_process` is; nothing but the standard library is imported. Limits
on resources hold on any Unix. On Linux a filter of system calls adds that no file is opened, made
or removed, no socket made and no process or program started.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import struct
import sys

MEMORY_BYTES = 2**29  # address space; tensors pass through in pieces and are never held
CPU_S = 600
OPEN_FILES = 3  # standard input, output and error: no further descriptor can exist

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # opcodes of the kernel's classic BPF
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in `struct seccomp_data`

# Audit architecture and the calls that memory, reading, writing and leaving take: read, write,
# close, fstat, lseek, mmap, mprotect, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn,
# pread64, mremap, madvise, exit, futex, clock_gettime, exit_group, getrandom.
_CALLS = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 25, 28, 60, 202, 228, 231, 318),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 216, 233, 93, 98, 113, 94, 278),
    ),
}


def lock_down() -> None:
    """Set the limits, for good. Import everything first: nothing can be opened afterwards.

    Raises:
        OSError: The system refuses a limit that it should know.
    """
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        _, hard = resource.getrlimit(limit)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (allowed, allowed))
        except ValueError:  # macOS knows no limit of the address space
            if sys.platform == "linux":
                raise
    if sys.platform == "linux":
        _filter_calls()


def _filter_calls() -> None:
    """Have every system call but those of `_CALLS` fail with EPERM, on machines listed there."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if platform.machine() not in _CALLS:
        return
    program = _program(*_CALLS[platform.machine()])
    code = ctypes.create_string_buffer(program)
    # struct sock_fprog: number of instructions, then, aligned, their address.
    filters = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _check(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(filters), 0, 0))


def _program(architecture: int, calls: tuple[int, ...]) -> bytes:
    """The filter as instructions: opcode, jump if true, jump if false, operand."""
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for call in calls:
        steps += [(_JUMP_IF_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses to restrict this process")

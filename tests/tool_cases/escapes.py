"""Attempts to get past the kernel's boundary; prints `DID` and a name for each that works. Arguments: see the test."""

# ruff: noqa: PTH110, PTH115, PTH119, PTH120, PTH123, PTH208, S606 - run as one text in a sandbox, by the shortest calls there are
import ctypes
import fcntl
import json
import os
import platform
import socket
import struct
import sys

facts = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
IS_ARM = platform.machine() == "aarch64"


def call(x86, arm, *arguments):
    """A system call; raises OSError when it is refused."""
    found = libc.syscall(arm if IS_ARM else x86, *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return found


HARMLESS = {  # what may be tried without a sandbox, to see that it would work
    "signal", "a socket by an abstract name", "a socket by a path outside", "a message queue", "no filter",
    "watch the outside", "a program in memory", "list the outside", "shared memory by number",
}  # fmt: skip


def attempt(name, act):
    """Try one thing."""
    if facts["is_harmless"] and name not in HARMLESS:
        return
    try:
        found = act()
    except (OSError, PermissionError, AttributeError, ValueError, OverflowError):
        return
    if found is not False:
        print("DID", name, "" if found is None else found)


def inherited():
    """More open descriptors than input, output, errors, and the folder being listed."""
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 3) or False


def status(field):
    """A field of this process's status."""
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(f"{field}:"))


def typed():
    """Type into the terminal of whoever started this."""
    for place in (0, 1, 2, "/dev/tty", "/dev/console", "/dev/pts/0", "/dev/pts/1"):
        try:
            fd = place if isinstance(place, int) else os.open(place, os.O_RDWR)
            fcntl.ioctl(fd, 0x5412, b"x")  # TIOCSTI
        except OSError:
            continue
        return place
    return False


def traced():
    """Attach to a process of the same user, or read its memory."""
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(16, facts["victim"], None, None) == 0:
        return "ptrace"
    with open(f"/proc/{facts['victim']}/mem", "rb"):
        return "mem"


def connected(address, family=socket.AF_UNIX):
    """Connect to a server outside."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)


def in_own_namespaces(act):
    """Do something as root of new user and mount namespaces, in a child."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            call(272, 97, 0x10020000)  # unshare(CLONE_NEWUSER | CLONE_NEWNS)
            os.write(write, str(act()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 1000).decode() or False


def cloned(act):
    """The same through clone, whose flags no filter reads from a structure."""
    read, write = os.pipe()
    if call(56, 220, 0x10020011, 0, 0, 0, 0) == 0:
        try:
            os.write(write, str(act()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 1000).decode() or False


def unmasked():
    """Take the mask of a hidden file away, or look below it through another mount of the same folder."""
    secret, mount = facts["secret"].encode(), facts["mount"].encode()
    libc.umount2(secret, 2)
    libc.mount(os.path.dirname(secret), mount, None, 4096, None)
    libc.mount(b"overlay", mount, b"overlay", 0, b"lowerdir=" + os.path.dirname(secret) + b":/usr")
    found = b""
    for place in (secret, mount + b"/" + os.path.basename(secret)):
        try:
            with open(place, "rb") as file:
                found += file.read()
        except OSError:
            continue
    return found.strip(b"\0").decode() or sys.exit()


def by_handle():
    """Open a file by its number, without a path."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call(303, 264, -100, facts["secret"].encode(), handle, ctypes.byref(mount), 0)
    folder = os.open(os.path.dirname(facts["secret"]), os.O_RDONLY)
    return call(304, 265, folder, handle, 0)


def queue():
    """Open a message queue of the user by its name."""
    return call(240, 180, facts["queue"].encode(), 0, 0, None)


def attributes():
    """Set an attribute of a file that can only be read (FS_IOC_SETFLAGS: no dump)."""
    fd = os.open(facts["file"], os.O_RDONLY)
    now = struct.unpack("l", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0]
    fcntl.ioctl(fd, 0x40086602, struct.pack("l", now | 0x40))


def watched():
    """Be told of changes in a folder outside."""
    return call(254, 27, call(294, 26, 0), facts["outside"].encode(), 0x100)


def executed():
    """Run a program out of memory that writes outside."""
    fd = os.memfd_create("x", 0)
    os.write(fd, b"#!/bin/sh\ntouch " + facts["outside"].encode() + b"/memfd\n")
    if os.fork() == 0:
        os.execve(f"/proc/self/fd/{fd}", ["x"], {"PATH": "/usr/bin:/bin"})
    os.wait()
    return os.path.exists(facts["outside"] + "/memfd")


attempt("inherited descriptors", inherited)
attempt("capabilities", lambda: int(status("CapEff"), 16) or False)
attempt("new privileges", lambda: status("NoNewPrivs") == "0" or False)
attempt("no filter", lambda: status("Seccomp") != "2" or False)
attempt("type into a terminal", typed)
attempt("trace", traced)
attempt("signal", lambda: os.kill(facts["victim"], 0))
attempt("a socket by an abstract name", lambda: connected("\0" + facts["abstract"]))
attempt("a socket by a path outside", lambda: connected(facts["socket"]))
attempt("vsock", lambda: socket.socket(getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM).close())
attempt("alg", lambda: socket.socket(38, socket.SOCK_SEQPACKET).close())
attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW).close())
attempt("io_uring", lambda: call(425, 425, 8, bytes(120)))
attempt("shared memory by number", lambda: call(30, 196, facts["segment"], 0, 0o10000))
attempt("messages by number", lambda: call(71, 187, 0, 3, bytes(200)))
attempt("keyring", lambda: call(250, 219, 0, -3, 0))
attempt("a message queue", queue)
attempt("mount", lambda: call(165, 40, b"none", facts["mount"].encode(), b"tmpfs", 0, None))
attempt("namespaces of its own", lambda: call(272, 97, 0x10000000))
attempt("a mask, in own namespaces", lambda: in_own_namespaces(unmasked))
attempt("a mask, in cloned namespaces", lambda: cloned(unmasked))
attempt("a file by its number", by_handle)
attempt("watch the outside", watched)
attempt("a program in memory", executed)
attempt("write the kernel's settings", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
attempt("the root of another process", lambda: os.listdir(f"/proc/{facts['victim']}/root"))
attempt("the first process", lambda: os.path.lexists("/proc/1/root" + facts["outside"] + "/file") or False)
for number in range(3, 300):
    attempt("a descriptor of the first process", lambda number=number: os.open(f"/proc/1/fd/{number}", os.O_RDONLY))
attempt("list the outside", lambda: os.listdir(facts["outside"]) or False)
if facts["reads"]:
    attempt("attributes of a file", attributes)
print("tried")

"""Dataset tests and references nobody vouches for have the walls that programs have, whichever a machine gives."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from sandbox.sandboxes import HONEST, LIMITS, below, eventually, gone, outcome, script

from t2.sandbox import Program, Sandbox, isolation, scratch

REFUSED = {"namespaces": "", "landlock": "refuse(UNSHARE)", "none": "refuse(UNSHARE, LANDLOCK)"}
"""What a machine refuses, by the walls that are left then."""

everywhere = pytest.mark.parametrize("mode", REFUSED)
everyone = pytest.mark.parametrize("user", ["root", "ordinary"])


def caller(mode: str, user: str) -> str:
    """The beginning of a script: a caller who has no more rights than these."""
    return f"""
    {"become_ordinary()" if user == "ordinary" else ""}
    {REFUSED[mode]}
    LIMITS = LIMITS.model_copy(update={{"allow_unsafe": {mode == "none"}}})"""


# Bodies of a function that returns True where it got through. Capitals are the scene's.
FILES = {
    "writes outside": "open(OPEN + '/new', 'w').write('x'); return True",
    "overwrites a file": "open(OWN, 'w').write('gone'); return True",
    "deletes a file": "os.unlink(OWN); return True",
    "renames a file": "os.rename(OWN, OWN + '.moved'); return True",
    "links to a file": "os.link(OWN, 'link'); return open('link').read() == 'mine'",
    "makes a folder": "os.mkdir(OPEN + '/folder'); return True",
    "writes shared memory": "open(f'/dev/shm/t2-walls-{CALLER}', 'w').write('x'); return True",
    "reads a secret": "return open(SECRET).read() == 'secret'",
    "reads a secret by a link": "os.symlink(SECRET, 'way'); return open('way').read() == 'secret'",
    "lists a folder": "return os.listdir(OPEN) != []",
    "reads the caller's environment": "return b'SECRET' in open(f'/proc/{CALLER}/environ', 'rb').read()",
    "reads another's environment": "return b'SECRET' in open(f'/proc/{VICTIM}/environ', 'rb').read()",
    "reads another's memory": "return open(f'/proc/{VICTIM}/mem', 'rb').read(0) == b''",
    "follows another's folder": "return os.readlink(f'/proc/{CALLER}/cwd') != ''",
    "lists processes": "return os.listdir('/proc') != []",
}
OTHERS = {
    "truncates a file": "os.truncate(OWN, 0); return True",
    "opens a file to all": "os.chmod(OWN, 0o777); return True",
    "changes a file's time": "os.utime(OWN, (0, 0)); return True",
    "watches a folder": """
        libc = ctypes.CDLL(None)
        fd = libc.inotify_init()
        return fd >= 0 and libc.inotify_add_watch(fd, OPEN.encode(), 0x100) >= 0
    """,
    "connects": "socket.create_connection(('127.0.0.1', PORT), timeout=1); return True",
    "sends a datagram": """
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT)); return True
    """,
    "sends to a local socket": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', LOCAL); return True",
    "sends to an abstract socket": """
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', ABSTRACT); return True
    """,
    "sends to a local socket by one of a pair": """
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', LOCAL); return True
    """,
    "takes an abstract name": "socket.socketpair()[0].bind(chr(0) + 't2-left'); return True",
    "reaches beyond the net": "return socket.socket(40, socket.SOCK_STREAM).fileno() >= 0",
    "signals the caller": "os.kill(CALLER, 0); return True",
    "ends another": "os.kill(VICTIM, 15); return True",
    "ends all": "os.kill(-1, 15); return True",
    "ends its group": "os.kill(0, 9); return True",
    "interrupts its server": "os.kill(os.getppid(), 2); return True",
    "signals by a descriptor it was left": """
        for fd in range(1024):
            try: signal.pidfd_send_signal(fd, 0); return True
            except OSError: pass
    """,
    "has a pipe end another": """
        end, way = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETOWN, VICTIM)
        fcntl.fcntl(end, 10, signal.SIGTERM)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)
        os.write(way, b'x')
        return True
    """,
    "traces another": "return ctypes.CDLL(None).ptrace(16, VICTIM, 0, 0) == 0",
    "limits another": "resource.prlimit(VICTIM, resource.RLIMIT_CPU, (1, 1)); return True",
    "slows another": "os.setpriority(os.PRIO_PROCESS, VICTIM, 19); return True",
    "shares memory": "return ctypes.CDLL(None).shmget(0x7232, 1 << 20, 0o1666) >= 0",
    "looks for shared memory": """
        segment = ctypes.create_string_buffer(256)
        return any(ctypes.CDLL(None).shmctl(number, 2, segment) == 0 for number in (SHARED, *range(64)))
    """,
    "leaves a message queue": "return ctypes.CDLL(None).mq_open(b'/t2-walls', 0o102, 0o600, None) >= 0",
    "keeps a key": "return ctypes.CDLL(None).syscall(248, b'user', b't2', b'x', 1, -4) > 0",
    "hides memory in a file": "return os.memfd_create('x') >= 0",
    "enters namespaces": "return ctypes.CDLL(None).unshare(0x10000000) == 0",
    "outlives its parent": "return ctypes.CDLL(None).prctl(1, 0) == 0",
}
# A program may do these to itself and its own where it has namespaces; the tests may nowhere.
OF_TESTS = {
    "starts a process": "return os.fork() >= 0",
    "leaves a process": """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(60)
            os._exit(0)
        return True
    """,
    "starts a program": "return os.posix_spawn('/bin/true', ['true'], {}) > 0",
    "opens a socket": "return socket.socket().fileno() >= 0",
}

SCENE = """
    import ctypes, json, shutil, socket, subprocess, tempfile, textwrap
    from t2.tasks.sources.evalplus import unit_tests

    os.environ["SECRET"] = "caller"
    home = tempfile.mkdtemp(dir="/var/tmp")
    OPEN, SECRET, OWN, LOCAL = (home + name for name in ("/open", "/secret", "/open/own", "/local"))
    os.mkdir(OPEN)
    for path, text in ((SECRET, "secret"), (OWN, "mine")):
        Path(path).write_text(text)
    for path, rights in ((home, 0o755), (OPEN, 0o777), (SECRET, 0o644), (OWN, 0o666)):
        os.chmod(path, rights)
    CALLER, ABSTRACT = os.getpid(), chr(0) + f"t2-walls-{os.getpid()}"
    heard = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    heard[0].bind(ABSTRACT); heard[1].bind(LOCAL)
    os.chmod(LOCAL, 0o777)
    heard += [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    PORT = heard[2].getsockname()[1]
    heard[3].bind(("127.0.0.1", PORT))
    victim = subprocess.Popen(["/bin/sleep", "60"], env={"SECRET": "another"}, stdout=subprocess.DEVNULL)
    VICTIM = victim.pid
    SHARED = ctypes.CDLL(None).shmget(0, 4096, 0o1666)
    names = ("OPEN", "SECRET", "OWN", "LOCAL", "CALLER", "VICTIM", "PORT", "ABSTRACT", "SHARED")
    begin = "import ctypes, fcntl, os, resource, signal, socket, time\\n"
    begin += "".join(f"{name} = {globals()[name]!r}\\n" for name in names)

    def dressed(body, dress):
        lines = textwrap.indent(textwrap.dedent(body), " " * 4)
        function = f"{begin}def f():\\n{lines}\\n    return False\\n"
        if dress == "reference":
            return Program("def f(): return True", unit_tests("f", function, [[[]]], 0, "equal"))
        if dress == "program":
            return Program(function, "assert f() is True")
        return Program("", function + "assert f() is True")

    def alarms():
        new = (OPEN + "/new", OPEN + "/folder", OWN + ".moved", f"/dev/shm/t2-walls-{CALLER}")
        found = [path for path in new if os.path.exists(path)]
        if not os.path.exists(OWN) or Path(OWN).read_text() != "mine" or os.stat(OWN).st_mode & 0o777 != 0o666:
            found.append(OWN)
        for place in heard:
            place.setblocking(False)
            try: place.accept() if place is heard[2] else place.recv(1)
            except BlockingIOError: continue
            found.append("heard")
        return found + (["ended"] if victim.poll() is not None else [])
"""


def through(mode: str, user: str, attacks: dict[str, str], dresses: list[str]) -> tuple[list[str], list[str], bool]:
    """Which attacks get through, what they did to the scene, and whether one server stood them all."""
    out, _ = outcome(f"""
    {caller(mode, user)}
    {SCENE}
    with Sandbox(LIMITS) as sandbox:
        assert sandbox.isolation == {mode!r}, sandbox.isolation
        first = sandbox._servers[0]._process.pid
        found = []
        for dress in {dresses!r}:
            for name, body in {attacks!r}.items():
                found += [f"{{dress}} {{name}}"] if sandbox.run([dressed(body, dress)])[0].passed else []
        same = first == sandbox._servers[0]._process.pid
        assert sandbox.run([HONEST])[0].passed
    print(json.dumps([found, alarms(), same]))
    ctypes.CDLL(None).shmctl(SHARED, 0, None)
    Path(f"/dev/shm/t2-walls-{{CALLER}}").unlink(missing_ok=True)
    victim.kill(); victim.wait()
    shutil.rmtree(home, ignore_errors=True)
    """)
    found, harm, same = json.loads(out)
    return found, harm, same


@everyone
@pytest.mark.parametrize("mode", ["namespaces", "landlock"])
def test_tests_and_references_have_the_programs_walls(mode: str, user: str) -> None:
    attacks = FILES | OTHERS | OF_TESTS
    assert through(mode, user, attacks, ["tests", "reference"]) == ([], [], True)


@everyone
def test_programs_get_through_the_walls_no_more_than_their_tests(user: str) -> None:
    assert through("landlock", user, FILES | OTHERS | OF_TESTS, ["program"]) == ([], [], True)
    mine = {name for name in OTHERS if name.startswith(("ends ", "takes", "interrupts", "watches"))}
    attacks = FILES | {name: body for name, body in OTHERS.items() if name not in mine}
    assert through("namespaces", user, attacks, ["program"]) == ([], [], True)
    own = {name: body for name, body in OTHERS.items() if name in mine}
    assert through("namespaces", user, own, ["program"])[1:] == ([], True)  # it does them to itself


@everyone
def test_without_walls_the_filter_alone_leaves_files_open_and_nothing_else(user: str) -> None:
    found, _, same = through("none", user, OTHERS | OF_TESTS, ["tests", "reference", "program"])
    assert (found, same) == ([], True)
    found, harm, same = through("none", user, FILES, ["tests"])
    assert "tests reads a secret" in found and harm and same
    assert "read and write whatever files the user may" in isolation.MODES["none"]


@everyone
@everywhere
def test_what_a_mode_lets_be_seen_is_what_it_says(mode: str, user: str) -> None:
    seen = {
        "a file's size": "return os.stat(SECRET).st_size == 6",
        "a process": "return os.path.exists(f'/proc/{VICTIM}')",
    }
    found, harm, same = through(mode, user, seen, ["tests", "program"])
    says = "see which files and processes exist, and how large and old" in isolation.MODES[mode]
    assert bool(found) == (says or mode == "none") and not harm and same


FORGED = {
    "no message": r"b'\0\0\0\2{]'",
    "a cut message": r"b'\0\0\1\2{]'",
    "a long message": r"b'\xff\xff\xff\xff'",
    "half a header": r"b'\0'",
    "another form": r"b'\0\0\0\2{}'",
    "nothing said": r"b'\0\0\0\6[true]'",
    "two messages": r"b'\0\0\0\x10[true, \"passed\"]' * 2",
}


@everywhere
def test_tests_that_forge_a_verdict_fail_and_leave_the_server_be(mode: str) -> None:
    attacks = {
        name: f"""
        for fd in range(3, 64):
            try: os.write(fd, {message})
            except OSError: pass
        time.sleep(0.2)
        return True
    """
        for name, message in FORGED.items()
    }
    assert through(mode, "root", attacks, ["tests", "reference"]) == ([], [], True)


# Honest programs


ALONE = {
    "starts a process": "import os\ndef f(): return os.waitpid(os.fork() or os._exit(0), 0)[1] == 0",
    "signals itself": "import os\ndef f(): return os.kill(os.getpid(), 0) is None",
    "opens a socket": "import socket\ndef f(): return socket.socket().close() is None",
    "changes permissions": "import os\ndef f():\n    open('x', 'w').close()\n    return os.chmod('x', 0o600) is None",
    "changes times": "import os\ndef f():\n    open('x', 'w').close()\n    return os.utime('x', (1, 1)) is None",
    "writes to /tmp": "def f(): return open('/tmp/t2-honest', 'w').write('x') == 1",
}


@everyone
@everywhere
def test_honest_programs_have_the_same_verdicts_behind_all_walls(mode: str, user: str) -> None:
    """But for those that MODES names."""
    out, _ = outcome(f"""
    import json, textwrap
    sys.path.insert(0, "tests")
    from sandbox.test_sandbox import BY_PYTHONS_RULES, HONEST_PROGRAMS
    {caller(mode, user)}
    pairs = [*HONEST_PROGRAMS.values(), *BY_PYTHONS_RULES]
    programs = [Program(textwrap.dedent(code), textwrap.dedent(tests)) for code, tests in pairs]
    alone = {ALONE!r}
    with Sandbox(LIMITS) as sandbox:
        assert sandbox.isolation == {mode!r}, sandbox.isolation
        verdicts = sandbox.run(programs)
        names = [*HONEST_PROGRAMS, *(code for code, _ in BY_PYTHONS_RULES)]
        print(json.dumps([name for name, verdict in zip(names, verdicts) if not verdict.passed]))
        verdicts = sandbox.run([Program(code, "assert f()") for code in alone.values()])
        print(json.dumps([name for name, verdict in zip(alone, verdicts) if not verdict.passed]))
    """)
    different, alone = map(json.loads, out.splitlines())
    if mode == "namespaces":
        assert (different, alone) == ([], [])
        return
    assert different == ["subprocesses within bounds"]
    assert alone == [name for name in ALONE if mode == "landlock" or name != "writes to /tmp"]
    for words in ("starts a process", "sends a signal", "opens a socket", "permissions or times", "/tmp by that name"):
        assert words in isolation.MODES["landlock"]
    assert "the same programs fail as with landlock" in isolation.MODES["none"]
    Path("/tmp/t2-honest").unlink(missing_ok=True)


# What programs leave


LEFT = {
    "100 folders": "for _ in range(100): os.mkdir('d'); os.chdir('d')\nopen('file', 'w').write('x')",
    "3000 folders": "for _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('file', 'w').write('x')",
    "folders in a row, each beside shut ones": """
for _ in range(100):
    os.mkdir('d'); os.mkdir('shut', 0); os.mkdir('e', 0o300); os.chdir('d')
""",
    "long names": "for _ in range(40): os.mkdir('n' * 255); os.chdir('n' * 255)",
    "many files": "for i in range(3000): open(str(i), 'w').close()",
    "many megabytes": "for i in range(8): open(str(i), 'wb').write(bytes(1 << 20))",
    "a file without permissions": "os.close(os.open('x', os.O_CREAT, 0))",
    "links": "os.symlink('/', 'root'); os.symlink('.', 'self'); os.mkdir('d'); os.symlink('../d', 'd/d')",
    "a pipe": "os.mkfifo('pipe')",
    "odd names": "open('new\\nline', 'w').close(); open(b'\\xff', 'w').close(); os.mkdir('0'); os.mkdir('0/0')",
    "a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    "an open file": "kept = open('x', 'w'); os.unlink('x'); kept.write('x' * 1000)",
    "a lock": "import fcntl\nkept = open('x', 'w'); fcntl.flock(kept, fcntl.LOCK_EX)",
}

TOO_MUCH = ["3000 folders", "folders in a row, each beside shut ones", "long names", "many files", "many megabytes"]


@everyone
@pytest.mark.parametrize("mode", ["landlock", "none"])
def test_nothing_that_a_program_or_its_tests_leave_stays(mode: str, user: str) -> None:
    out, err = outcome(f"""
    {caller(mode, user)}
    empty = Program("import os\\ndef f(): return os.listdir('.')", "import os\\nassert f() == os.listdir('.') == []")
    LIMITS = LIMITS.model_copy(update={{"cpu_seconds": 4, "wall_seconds": 9}})
    with Sandbox(LIMITS) as sandbox:
        folder, first = sandbox._servers[0]._scratch, sandbox._servers[0]._process.pid
        for name, code in {LEFT!r}.items():
            for left in (Program("import os\\n" + code, ""), Program("", "import os\\n" + code)):
                did, then = sandbox.run([left, empty])
                if did.passed == (name in {TOO_MUCH!r}) or not then.passed:
                    print(name, did, then)
        print(first == sandbox._servers[0]._process.pid)
    print(os.path.exists(folder))
    """)
    assert out.splitlines() == ["True", "False"], err


def test_a_scratch_folder_is_emptied_whatever_is_in_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = tmp_path / "scratch"
    folder.mkdir()
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(2100):  # a path of more than 4096 signs, and more folders than functions call each other
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    (folder / "link").symlink_to(outside)
    (folder / "shut").mkdir(0)
    os.mkfifo(folder / "pipe")
    folder.chmod(0)
    scratch.empty(str(folder))
    assert list(folder.iterdir()) == []
    scratch.remove(str(folder))
    assert not folder.exists()
    scratch.remove(str(folder))
    folder.symlink_to(outside)  # as a program without walls may have it
    scratch.remove(str(folder))
    assert not folder.is_symlink() and (outside / "kept").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_scratch_goes_though_the_process_that_watches_it_is_killed(which: int) -> None:
    """The first is the warden, the second the server."""
    out, err = outcome(f"""
    import signal
    {caller("landlock", "ordinary")}
    sys.path.insert(0, "tests")
    from sandbox.sandboxes import below
    with Sandbox(LIMITS) as sandbox:
        server = sandbox._servers[0]
        folders = [server._scratch]
        Path(folders[0], "left").touch()
        os.kill([server._process.pid, *below(server._process.pid)][{which}], signal.SIGKILL)
        print(sandbox.run([HONEST])[0].passed, sandbox.isolation)
        folders.append(sandbox._servers[0]._scratch)
    print([os.path.exists(folder) for folder in folders])
    """)
    assert out.splitlines() == ["True landlock", "[False, False]"], err


@pytest.mark.parametrize("mode", ["namespaces", "landlock"])
def test_everything_ends_with_a_killed_caller(mode: str) -> None:
    process = script(f"""
    {caller(mode, "root")}
    patient = LIMITS.model_copy(update={{"cpu_seconds": 60, "wall_seconds": 60}})
    with Sandbox(patient, workers=2) as sandbox:
        print([server._scratch for server in sandbox._servers if server._scratch], flush=True)
        sandbox.run([Program("while True: pass", "")] * 2)
    """)
    assert process.stdout
    folders = json.loads(process.stdout.readline().replace("'", '"'))
    assert len(folders) == (2 if mode == "landlock" else 0)
    time.sleep(0.3)
    started = below(process.pid)
    assert len(started) == 8  # two of warden, server, referee, player
    process.kill()
    process.wait()
    assert eventually(lambda: gone(started))
    assert eventually(lambda: not any(os.path.exists(folder) for folder in folders))


# Which walls


def test_an_ordinary_user_gets_the_same_walls() -> None:
    out, err = outcome("""
        become_ordinary()
        bomb = Program(
            "import os, time\\nn = 1\\nwhile True:\\n"
            "    try: os.fork() or time.sleep(9)\\n    except BlockingIOError: break\\n    n += 1",
            "assert n == 8",
        )
        killer = Program("import os\\ndef f(): os.kill(0, 9)", "f()\\nassert 0")
        with Sandbox(LIMITS) as sandbox:
            for verdict in sandbox.run([HONEST, bomb, killer]):
                print(verdict.passed, verdict.isolation)
    """)
    assert out.splitlines() == ["True namespaces", "True namespaces", "False namespaces"]
    assert not err


@everyone
def test_landlock_where_namespaces_are_refused(user: str) -> None:
    out, err = outcome(f"""
    {caller("landlock", user)}
    with Sandbox(LIMITS) as sandbox:
        print([verdict.passed for verdict in sandbox.run([HONEST, Program("while True: pass", "")])], sandbox.isolation)
    """)
    assert out == "[True, False] landlock\n"
    assert "reduced isolation of generated code: landlock (namespaces: " in err
    assert isolation.MODES["landlock"] in err


def test_no_isolation_at_all_needs_consent() -> None:
    out, err = outcome("""
        become_ordinary()
        refuse(UNSHARE, LANDLOCK)
        try:
            Sandbox(LIMITS).__enter__()
        except SandboxError as error:
            print(error)
        with Sandbox(LIMITS.model_copy(update={"allow_unsafe": True})) as sandbox:
            print([(v.passed, v.isolation) for v in sandbox.run([HONEST, Program("while True: pass", "")])])
    """)
    refusal, verdicts = out.splitlines()
    assert "sandbox.allow_unsafe" in refusal and "namespaces: " in refusal and "landlock: " in refusal
    assert verdicts == "[(True, 'none'), (False, 'none')]"
    assert "reduced isolation of generated code: none" in err


MORTAL = """
    import tempfile
    folder = tempfile.mkdtemp()
    deaths, python = Path(folder, "deaths"), Path(folder, "python")
    python.write_text(
        f"#!/bin/sh\\nleft=$(cat {deaths})\\n"
        f"if [ $left -gt 0 ]; then echo $((left - 1)) > {deaths}; kill -9 $$; fi\\n"
        f"exec {sys.executable} \\"$@\\"\\n"
    )
    python.chmod(0o755)
    sys.executable = str(python)
    def attempt(dying, allow_unsafe, workers=1):
        deaths.write_text(str(dying))
        try:
            with Sandbox(LIMITS.model_copy(update={"allow_unsafe": allow_unsafe}), workers=workers) as sandbox:
                print(sandbox.run([HONEST])[0].passed, sandbox.isolation)
        except SandboxError as error:
            print(error)
"""


def test_servers_that_die_at_their_start_do_not_lower_the_walls() -> None:
    out, err = outcome(MORTAL + "\n    attempt(2, False)\n    attempt(2, True)\n    attempt(2, False, workers=2)")
    assert out.splitlines() == ["True namespaces"] * 3
    assert err.count("a sandbox server died at its start") == 6 and "reduced" not in err
    out, err = outcome(MORTAL + "\n    attempt(3, False)")
    assert "servers of the sandbox behind namespaces died at their start, 3 in a row" in out
    assert "sandbox.allow_unsafe" in out and "True" not in out and "reduced" not in err
    out, err = outcome(MORTAL + "\n    attempt(3, True)")
    assert out == "True landlock\n"
    assert "reduced isolation of generated code: landlock (namespaces: " in err


@pytest.mark.parametrize("call", ["PIVOT_ROOT", "CAPSET"])
def test_neither_do_servers_and_referees_that_are_killed_as_they_put_up_walls(call: str) -> None:
    out, err = outcome(f"""
    refuse({call}, answer=KILL)
    try:
        with Sandbox(LIMITS) as sandbox:
            print(sandbox.isolation)
    except SandboxError as error:
        print(error)
    """)
    assert "servers of the sandbox behind namespaces died at their start" in out
    assert "reduced" not in err


def test_a_server_that_would_stand_behind_lesser_walls_is_not_taken() -> None:
    out, _ = outcome("""
    import signal
    with Sandbox(LIMITS) as sandbox:
        refuse(UNSHARE)  # from here on
        os.kill(sandbox._servers[0]._process.pid, signal.SIGKILL)
        try:
            print(sandbox.run([HONEST]))
        except SandboxError as error:
            print(error)
    """)
    assert "Operation not permitted" in out and "Verdict" not in out


def test_the_walls_are_told_with_every_verdict() -> None:
    with Sandbox(LIMITS) as sandbox:
        assert sandbox.run([HONEST])[0].isolation == sandbox.isolation
        assert sandbox.isolation in isolation.MODES
        assert not sandbox.run([Program("", "assert 0")])[0].passed

"""Run generated programs against unit tests, isolated from the machine and unable to forge their verdict.

:class:`Sandbox` (``client``) keeps one warm, torch-free interpreter per worker (``server``). For each program
that server forks a *referee* (``referee``) into new user, pid, mount, net and ipc namespaces (``isolation``),
and the referee forks the *player* (``player``), which alone runs the program, under a system-call filter
(``seccomp``). The tests stay with the referee: it was forked before they arrived, sends the player plain data
only (``wire``), and compares what comes back itself, against a reference where the tests name one
(``differential``).
"""

from __future__ import annotations

from t2.sandbox.client import Program, Sandbox, SandboxError, Verdict

__all__ = ["Program", "Sandbox", "SandboxError", "Verdict"]

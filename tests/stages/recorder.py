"""Records what a stage's program opens and which parameters it reads; Python imports it as ``sitecustomize``.

``T2_RECORD`` names a folder, where each stage gets a file of lines ``open <path>`` and ``read <parameter>``. What
surrounds the work is left out: DVC's hashing, the checks of the parameters, settings of the store and of the machine.

Rust opens its files itself: of a folder with safetensors or a tokenizer, only the JSON beside them is seen.
"""

import os
import sys
from pathlib import Path

AROUND = ("t2/config/", "t2/stages/fingerprint.py", "t2/stages/scratch.py", "t2/stages/stage.py", "t2/tracking.py")
"""Code whose reads no result depends on."""


def record(folder: str) -> None:
    log = os.open(Path(folder, os.environ["DVC_STAGE"].replace("/", "-")), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    root, seen = os.environ["DVC_ROOT"], set()

    def note(kind: str, what: str) -> None:
        if (kind, what) not in seen:
            seen.add((kind, what))
            os.write(log, f"{kind} {what}\n".encode())

    def on_event(event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path, mode, flags = os.path.abspath(os.fsdecode(arguments[0])), arguments[1], arguments[2]
        reads = not set(mode or "") & set("wax+") and not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY)
        if reads and path.startswith(f"{root}/") and not any(name.startswith(AROUND) for name in modules(root)):
            note("open", os.path.relpath(path, root))

    # Imports here would be recorded as reads of the program.
    from t2 import config
    from t2.config.rows import Params, Section

    names: dict[int, str] = {}
    read, load, dump = Section.__getattribute__, config.load, Section.model_dump

    def name_rows(value: object, name: str) -> None:
        if isinstance(value, Section):
            names[id(value)] = name
        entries = value.__dict__ if isinstance(value, Section) else value if isinstance(value, dict) else {}
        for key, entry in entries.items():
            name_rows(entry, f"{name}.{key}" if name else key)

    def recorded_load(*arguments: object, **options: object) -> Params:
        params = load(*arguments, **options)
        name_rows(params, "")
        return params

    def is_result(name: str) -> bool:
        caller = next((each for each in modules(root) if not each.startswith("t2/config/")), "")
        return bool(name) and not caller.startswith(AROUND)

    def recorded_read(self: Section, attribute: str) -> object:
        value = read(self, attribute)
        if not attribute.startswith("_") and attribute in type(self).model_fields:
            name = names.get(id(self), "")
            if is_result(name):
                note("read", f"{name}.{attribute}")
        return value

    def recorded_dump(self: Section, **options: object) -> dict:
        name = names.get(id(self), "")
        if is_result(name):
            for attribute in type(self).model_fields.keys() - (options.get("exclude") or set()):
                note("read", f"{name}.{attribute}")
        return dump(self, **options)

    config.load, Section.__getattribute__, Section.model_dump = recorded_load, recorded_read, recorded_dump
    sys.addaudithook(on_event)


def modules(root: str) -> list[str]:
    """The project's modules that are at work, the innermost first; not this one."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(f"{root}/t2/"):
            found.append(os.path.relpath(path, root))
        frame = frame.f_back
    return found


if "T2_RECORD" in os.environ and "DVC_STAGE" in os.environ and any("t2.stages." in word for word in sys.orig_argv):
    record(os.environ["T2_RECORD"])

"""Stage ``split``: draws the items of every task, refuses leaks, and writes ``data/splits``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from t2.config.rows import (
    Asking,
    Derived,
    Dispatching,
    Files,
    Generated,
    Hub,
    OkVqaPart,
    Params,
    SeeingBase,
    Task,
    TextVqaPart,
)
from t2.miniature.corpus import read_prompts
from t2.miniature.problems import generate
from t2.stages import paths
from t2.stages.stage import open_stage
from t2.tasks import derived, images, sources, splits
from t2.tasks.item import IMAGES, Item
from t2.tasks.leaks import Passage
from t2.tasks.sources import HubSplit

_SPARE = 20
"""Generated beyond what the splits ask for, in place of problems that another task has drawn as well."""


def main() -> None:
    """Draws and writes the splits of ``params.yaml`` and logs the files' hashes."""
    with open_stage("split") as stage:
        manifest = make_splits(stage.params, paths.data() / "splits")
        for name, file in manifest["files"].items():
            if file["n"]:
                split = Path(name).stem
                stage.run.log_dataset(name.removesuffix(".jsonl"), file["sha256"], file["n"], context=split)
                print(f"split {name:<32} {file['n']:>6} items")


def make_splits(params: Params, folder: Path) -> dict[str, Any]:
    """Draws all splits, checks them for leaks and writes them.

    Args:
        params: Tasks, sizes and the seed.
        folder: Made anew.

    Returns:
        The manifest, as written beside the splits: of each file the number of items and its sha256, of each
        task where its items come from, and the pretraining questions that were checked; of tasks of benchmark files
        what the files ask twice, and which test questions are nearly learned from; of tasks that show images, the
        list of these. It holds no time.

    Raises:
        SourceError: A benchmark file is missing or odd.
        SplitError: A task has too few problems.
        LeakError: Test prompts stand inside text that is learned from.
        ImageError: What items show cannot be shown; names all of them.
    """
    seed = params.splits.seed
    own = {name: task for name, task in params.tasks.items() if not isinstance(task.source, Derived | Dispatching)}
    pools = {name: _pool(task, seed) for name, task in own.items()}
    drawn = splits.draw({name: task.sizes for name, task in own.items()}, pools, seed)
    real = [name for name, task in own.items() if isinstance(task.source, Files)]
    files = pretraining_files([base.path for base in params.bases.values()])
    splits.refuse_leaked(drawn, _passages(files))
    limits = [base.vision for base in params.bases.values() if isinstance(base, SeeingBase)]
    digests = images.digests(splits.images_of(drawn), limits)
    splits.refuse_shared_images(drawn, digests)
    made = {
        name: splits.dispatch_splits(name, params.tasks, drawn)
        if isinstance(task.source, Dispatching)
        else derived.derive(task.source, task.sizes, drawn)
        for name, task in params.tasks.items()
        if isinstance(task.source, Derived | Dispatching)
    }
    manifest = {
        "files": splits.write(folder, {**drawn, **made}, digests),
        "near_duplicates": [
            asdict(pair) for pair in splits.near_in({name: drawn[name] for name in real}, params.splits.near_duplicates)
        ],
        "pretraining": {str(path): _digest(path) for path in files},
        "repeated": {name: splits.repeated(pools[name]) for name in real},
        "seed": seed,
        "sources": {name: _provenance(task) for name, task in own.items()},
    }
    if digests:
        manifest["images"] = {path.parent.name: _digest(path) for path in sorted(folder.glob(f"*/{IMAGES}"))}
    splits.write_manifest(folder, manifest)
    return manifest


def _pool(task: Task, seed: int) -> splits.Pool:
    source, sizes = task.source, task.sizes
    if isinstance(source, Generated):
        n = sizes.train + sizes.valid + sizes.test + sizes.shots
        items = [problem.item(task.prompt) for problem in generate(source.family, n + _SPARE, seed)]
        return splits.Pool(items, items)
    if isinstance(source, Asking):
        parts = [sources.asked(part) for part in (source.train, source.test)]
        return splits.Pool(*([problem.item(task.prompt) for problem in problems] for problems in parts))
    files = _files(task)

    def read(name: str, part: sources.Part) -> list[Item]:
        problems = sources.load(files.layout, _origin(files, name), part)
        return [problem.item(task.prompt) for problem in problems]

    return splits.Pool(read(files.train, "train"), read(files.test, "test"))


def _files(task: Task) -> Files:
    if not isinstance(task.source, Files):
        raise ValueError(f"layout {task.source.layout!r} has no files to read")
    return task.source


def _origin(source: Files, name: str) -> Path | HubSplit:
    return HubSplit(source.hub, source.revision, name, source.subset) if isinstance(source, Hub) else Path(name)


def pretraining_files(bases: list[str]) -> list[Path]:
    """What the bases read, where it is known: the miniature's prompts lie beside its folder."""
    files = dict.fromkeys(Path(path).parent / "pretraining_prompts.txt.xz" for path in bases)
    return [path for path in files if path.is_file()]


def _passages(files: list[Path]) -> Iterator[Passage]:
    for path in files:
        for line, prompt in enumerate(read_prompts(path), start=1):
            yield Passage(f"{path}, line {line}", prompt)


def _provenance(task: Task) -> dict[str, Any]:
    source = task.source
    origin = {"layout": source.layout, "version": sources.VERSIONS[source.layout]}
    if isinstance(source, Generated):
        return {**origin, "family": source.family}
    if isinstance(source, Asking):
        return {**origin, "train": _listed(source.train), "test": _listed(source.test)}
    files = _files(task)
    parts = {"train": files.train, "test": files.test}
    if isinstance(source, Hub):
        return {**origin, "hub": source.hub, "subset": source.subset, "revision": source.revision, **parts}
    return {**origin, **{part: {"file": path, "sha256": _digest(Path(path))} for part, path in parts.items()}}


def _listed(part: TextVqaPart | OkVqaPart) -> dict[str, Any]:
    """Each of a part's files with its digest; those of images stand beside the splits."""
    files = part.model_dump(exclude={"images"}, exclude_none=True)
    return {name: {"file": path, "sha256": _digest(Path(path))} for name, path in files.items()}


def _digest(path: Path) -> str:
    """Of a file's bytes; of a folder's files, of their names and digests."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "".join(f"{_digest(file)} {file.relative_to(path).as_posix()}\n" for file in files)
        return sha256(listed.encode()).hexdigest()
    return sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()

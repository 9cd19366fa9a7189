"""Stage ``publish``: benchmarked systems as a registered MLflow model that answers requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from t2 import tracking
from t2.adaptation.spec import Settings
from t2.serving import log_two_pass
from t2.stages import members, paths
from t2.stages.members import Member
from t2.stages.stage import open_stage, project_root


def main() -> None:
    """Logs the systems of ``publish.systems`` and writes what they are made of to ``data/published.json``.

    Adapters are those of the one seed that :func:`t2.stages.members.chosen_seed` gives for the systems' set, and mixes
    are those of that seed's first draw: no draw is chosen by a score.
    """
    with open_stage("publish") as stage:
        params = stage.params
        base = params.systems[params.publish.systems[0]].base
        settings = Settings.of(params, params.publish.systems, paths.basis(base))
        held = {member.name: member for member in members.read_set(params.publish.set)}
        specs = settings.systems.values()
        mixed = list(dict.fromkeys(name for spec in specs for name in spec["members"]))
        seed = members.chosen_seed([held[name] for name in mixed])
        named = [*mixed, *(spec["classifier"] for spec in specs if spec["classifier"])]
        adapters = {name: paths.member(params.publish.set, name, seed) for name in named}
        searches = dict.fromkeys(search for spec in specs for search in spec["searches"].values())
        search_results = {search: paths.search(search, seed, 0) / "alpha.json" for search in searches}
        search_results |= {name: paths.temperature(name, seed) for spec in specs if (name := spec["temperature"])}
        log_two_pass(
            stage.run.run_id,
            uri=tracking.store_uri(params.tracking, project_root()),
            name=params.publish.model,
            adapters=adapters,
            search_results=search_results,
            settings=settings,
        )
        parts = [*(folder / "adapter_model.safetensors" for folder in adapters.values()), *search_results.values()]
        content = {str(path): sha256(path.read_bytes()).hexdigest() for path in parts}
        record = {"model": params.publish.model, "seed": seed, "content": content}
        paths.published().write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        ship([held[name] for name in adapters], params.publish.set, seed, search_results.values())


def ship(adapters: Sequence[Member], of_set: str, seed: int, search_results: Iterable[Path]) -> None:
    """Copies what answers to :func:`t2.stages.paths.shipped`, at the places that it has in a run.

    Args:
        adapters: What answers or is mixed, and asks.
        of_set: The set that holds them.
        seed: The one that answers.
        search_results: The files of outcomes.
    """
    copies = []
    for adapter in adapters:
        files = list(paths.member(of_set, adapter.name, seed).iterdir())
        with paths.within(paths.shipped(), frozenset()):
            members.describe(replace(adapter, valid_scores={seed: adapter.valid_scores[seed]}))
            copies += [(file, paths.adapter(adapter.name, seed) / file.name) for file in files]
    copies += [(file, paths.shipped() / file) for file in search_results]
    for file, copy in copies:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


if __name__ == "__main__":
    main()

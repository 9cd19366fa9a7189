"""Stage ``derive@<adapter>``: an SVF adapter made of trained ones, seed by seed; see :mod:`t2.exchange.derived`."""

from __future__ import annotations

import sys

from t2.config.rows import DerivedAdapter
from t2.exchange.derived import derived
from t2.stages import members, paths
from t2.stages.stage import open_stage
from t2.svf import BasisCache, load_expert, save_expert
from t2.svf.experts import Expert
from t2.svf.identity import Origin
from t2.svf.language import named_here


def main(name: str) -> None:
    """Writes ``data/adapters/<name>/seed-<n>``; its validation scores are those of the adapter that it is made of."""
    with open_stage(f"derive@{name}") as stage:
        params = stage.params
        row = params.adapters[name]
        if not isinstance(row, DerivedAdapter):
            raise ValueError(f"adapters.{name} is trained, not made of another; `train@{name}` makes it")
        base, basis = params.bases[row.base], BasisCache.open(paths.basis(row.base))
        before, seeds = members.read(row.of), params.recipes[row.recipe].seeds
        for seed in seeds:
            z, *others = (named_here(load_expert(paths.adapter(of, seed)).z, basis) for of in (row.of, *row.others))
            adapted = [module for module in basis.matrices if row.change.kind == "resampled" or module in z]
            sigma = {module: basis.load(module).sigma for module in adapted}
            own = derived(z, row.change, sigma, seed, others)
            origin = Origin.of({module: basis.matrices[module] for module in own}, base.quantisation)
            provenance = {"base_model_name_or_path": base.path, "basis": str(paths.basis(row.base)), **origin.noted()}
            revision = {} if base.revision is None else {"revision": base.revision}
            out = paths.adapter(name, seed)
            save_expert(Expert(own, {**provenance, **revision, "task": row.task, "seed": seed}), out)
            run = stage.run.child(f"{name}/seed-{seed}", seed=seed, tags={"task": row.task, "t2.of": row.of})
            run.log_expert(out)
        members.write(name, params, {seed: before.valid_scores[seed] for seed in seeds})
        stage.run.log_params({"of": row.of, "change": row.change.model_dump()})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Stage ``spectrum@<base>``: how much of each matrix its largest singular values are (paper, figures 10 and 11)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pandas as pd
from torch import Tensor, nn

from t2.config.rows import Base
from t2.files import replace_file, write_csv
from t2.report.spectra import spectrum_figure
from t2.spectrum import spectra
from t2.stages import paths
from t2.stages.stage import open_stage
from t2.svf import checkpoint_weights
from t2.svf.base_checkpoint import checkpoint_folder
from t2.svf.experts import layer_of
from t2.svf.language import name_in_memory, outside_language
from t2.svf.pretrained import empty_model, load_config


def main(name: str) -> None:
    """Writes the table and the figure of one base model."""
    with open_stage(f"spectrum@{name}") as stage:
        base = stage.params.bases[name]
        rows = pd.DataFrame(spectra(linear_weights(base), stage.params.splits.seed))
        rows.insert(1, "layer", [layer_of(module) for module in rows["name"]])
        rows.insert(2, "module", [module.rpartition(".")[2] for module in rows["name"]])
        write_csv(paths.spectrum(name).with_suffix(".csv"), rows)
        replace_file(paths.spectrum(name).with_suffix(".svg"), spectrum_figure(rows, base.label))
        # A clean clone holds the others in git; this copy makes DVC run the stage there.
        write_csv(paths.data() / "spectra" / f"{name}.csv", rows)
        stage.run.log_table(rows, "spectrum")
        stage.run.log_files([paths.spectrum(name).with_suffix(".svg")])


def linear_weights(base: Base) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of every linear layer within the numbered ones, adapted or not, in the model's order.

    Of a base that also sees, those of its language part.
    """
    folder = checkpoint_folder(base.path, base.revision)
    model = empty_model(load_config(folder))
    elsewhere, renamed = outside_language(model), name_in_memory(model)
    weights = checkpoint_weights(
        folder, r".*\.\d+\..*", None, None, base.quantisation, exclude=elsewhere, renamed=renamed
    )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name in weights]
    return ((name, weights[name]) for name in linear)


if __name__ == "__main__":
    main(*sys.argv[1:])

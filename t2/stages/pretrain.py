"""Makes a base model of the miniature, or the list of questions that the bases saw.

``python -m t2.stages.pretrain base|control|twin|wide|prompts``; the shipped ones were made so.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from t2.miniature import corpus, settings
from t2.stages.progress import Progress

FOLDER = Path("data/miniature")
PROMPTS = FOLDER / "pretraining_prompts.txt.xz"


def make_base(name: str, params: settings.MiniatureParams, folder: Path) -> None:
    """Pretrains one of ``params.bases`` and writes model and tokenizer."""
    import torch

    from t2.miniature.pretraining import build_model, pretrain
    from t2.miniature.tokenizer import train_tokenizer

    torch.set_num_threads(params.optimiser.threads)
    base, architecture = params.bases[name], params.architecture_of(name)
    samples = corpus.pretraining_samples(params, params.seed_of(name), careless=base.careless)
    # Replies of the careful corpus, and the same problems for all: the bases then have the same tokenizer.
    texts = (
        text
        for sample in corpus.pretraining_samples(params, params.corpus.seed, careless=False)
        for text in (sample.prompt, "".join(piece for piece, _ in sample.reply))
    )
    tokenizer = train_tokenizer(texts, architecture.vocabulary, architecture.context)
    model = build_model(architecture, tokenizer, params.optimiser.seed if base.seed is None else base.seed)
    progress = Progress(f"pretrain@{name}", total=params.optimiser.steps)
    print(f"pretrain@{name}: {model.num_parameters():,} parameters, {len(samples):,} samples", flush=True)
    pretrain(model, tokenizer, samples, params.optimiser, lambda loss: progress.advance("pretraining", loss=loss))
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)


def main() -> None:
    """Reads ``data/miniature/params.yaml`` and makes what the command line names."""
    params = settings.load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*params.bases, "prompts"])
    what = parser.parse_args().what
    if what == "prompts":
        corpus.write_prompts(PROMPTS, corpus.questions(params))
    else:
        make_base(what, params, FOLDER / what)


if __name__ == "__main__":
    main()

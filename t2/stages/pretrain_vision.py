"""Makes what belongs to the miniature that sees, see ``data/miniature/vision/dvc.yaml``.

``python -m t2.stages.pretrain_vision base|control|prompts|benchmarks|language``; the shipped ones were made so.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2.miniature import settings as text_settings
from t2.miniature.corpus import read_prompts, write_prompts
from t2.miniature.vision import settings
from t2.stages.progress import Progress

TEXT = Path("data/miniature")
FOLDER = TEXT / "vision"
PROMPTS = FOLDER / "pretraining_prompts.txt.xz"
BENCHMARKS = FOLDER / "benchmarks"


def make_base(name: str, params: settings.VisionParams, folder: Path) -> None:
    """Makes one of ``params.bases`` of the text base that it names, and writes model and processor."""
    import torch

    from t2.miniature.pretraining import pretrain
    from t2.miniature.vision import corpus
    from t2.miniature.vision.model import (
        build_model,
        build_processor,
        features_of,
        load_language,
        round_weights,
        save,
        set_language,
    )
    from t2.miniature.vision.pictures import IMAGE
    from t2.miniature.vision.tower import train_tower

    torch.set_num_threads(params.optimiser.threads)
    language, tokenizer = load_language(TEXT / params.bases[name].language)
    image_token: Any = tokenizer.convert_tokens_to_ids(IMAGE)
    model, processor = build_model(language, tokenizer, params), build_processor(tokenizer, params)
    print(f"pretrain_vision@{name}: {model.num_parameters():,} parameters", flush=True)
    steps = params.tower.optimiser.steps + params.optimiser.steps
    progress = Progress(f"pretrain_vision@{name}", total=steps)
    pictures = corpus.tower_pictures(params)
    train_tower(model, processor, pictures, params.tower, lambda loss: progress.advance("vision tower", loss=loss))
    shown = corpus.samples(params, text_settings.load(), name)
    images = [one.picture.image if one.picture else None for one in shown]
    pretrain(
        language,
        tokenizer,
        [one.sample for one in shown],
        params.optimiser,
        lambda loss: progress.advance("language model", loss=loss),
        features_of(model, processor, images, params.tower.optimiser.batch),
        image_token,
    )
    set_language(model, language)
    round_weights(model)
    _replace(folder, lambda scratch: save(model, processor, scratch))


def make_language(name: str, folder: Path) -> None:
    """Writes the language part of one of the bases as a text model of its own, with its tokenizer."""
    from t2.miniature.vision.model import load_language_part
    from t2.svf import pretrained

    language, tokenizer = load_language_part(FOLDER / name), pretrained.load_tokenizer(FOLDER / name)

    def write(scratch: Path) -> None:
        language.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)

    _replace(folder, write)


def make_benchmarks(params: settings.VisionParams) -> None:
    """Writes the two families in the forms of TextVQA and OK-VQA."""
    from t2.miniature.vision.benchmarks import write_benchmarks

    write_benchmarks(params, read_prompts(PROMPTS), BENCHMARKS)


def make_prompts(params: settings.VisionParams) -> None:
    """Lists the questions that the bases read."""
    from t2.miniature.vision.corpus import questions

    write_prompts(PROMPTS, questions(params, text_settings.load()))


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    write(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)


def main() -> None:
    """Reads ``data/miniature/vision/params.yaml`` and makes what the command line names."""
    params = settings.load()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*params.bases, "language", "prompts", "benchmarks"])
    parser.add_argument("name", nargs="?", choices=list(params.bases), help="of the base, for its language part")
    arguments = parser.parse_args()
    if arguments.what == "prompts":
        make_prompts(params)
    elif arguments.what == "benchmarks":
        make_benchmarks(params)
    elif arguments.what == "language":
        make_language(arguments.name, FOLDER / f"{arguments.name}-language")
    else:
        make_base(arguments.what, params, FOLDER / arguments.what)


if __name__ == "__main__":
    main()

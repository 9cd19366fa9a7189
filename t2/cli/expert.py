"""``t2 expert``: what experts are there, what they change, and files that other programs can use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from t2.cli import library
from t2.report.tables import NONE, Cell, Table, to_text
from t2.stages import paths

app = typer.Typer(
    help="Look at experts, compare them, and exchange them with other programs.\n\n"
    "An expert is named by its row of `adapters`, svf-math (its seed with the best validation score), by row and seed, "
    "svf-math/seed-1, or by an adapter folder.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path, typer.Option(help="The folder to make.")]
Name = Annotated[str, typer.Argument(metavar="EXPERT", help="svf-math, svf-math/seed-1 or a folder.")]


class Format(StrEnum):
    """What an expert is exported as."""

    merged = "merged"
    lora = "lora"


class Dtype(StrEnum):
    """What a base model runs in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Precision = Annotated[
    Dtype | None, typer.Option(help="What the base model runs in; if not given, as the project says or as stored.")
]


@app.command("list")
def list_experts(as_json: Json = False) -> None:
    """List the project's finished experts."""
    from t2.svf import load_expert

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "task": entry.task,
            "seed": entry.seed,
            "step": entry.step,
            "valid_score": entry.valid_score,
            **_summary(load_expert(entry.folder).z),
            "folder": str(entry.folder),
        }
        for entry in library.trained_experts()
    ]
    if not rows and not as_json:
        raise ValueError(f"{paths.data() / 'adapters'} holds no experts; `make repro` trains them")
    _print(rows, "Experts", as_json)


@app.command()
def show(expert: Name, as_json: Json = False) -> None:
    """Show what an expert changes: z by layer and module."""
    from t2.svf import load_expert, statistics

    entry = library.find(expert)
    loaded = load_expert(entry.folder)
    rows = [{**row, "size": len(loaded.z[row["name"]])} for row in statistics(loaded.z)]
    if as_json:
        about = {"name": entry.name, "folder": str(entry.folder), **loaded.provenance}
        typer.echo(json.dumps({**about, **_summary(loaded.z), "matrices": rows}))
        return
    typer.echo(f"{entry.name}  {entry.folder}")
    for key, value in loaded.provenance.items():
        typer.echo(f"  {key}: {value}")
    keys = ("layer", "module", "size", "mean", "std", "min", "max", "change")
    _print([{key: row[key] for key in keys} for row in rows], "z by matrix; change is the mean |z − 1|")


@app.command()
def diff(first: Name, second: Name, as_json: Json = False) -> None:
    """Compare two experts: how alike their changes z − 1 are, by module and over all."""
    from t2.svf import compare, load_expert

    entries = library.find(first), library.find(second)
    one, other = (load_expert(entry.folder).z for entry in entries)
    compare(one, other)  # refuses experts of different matrices
    groups: dict[str, list[str]] = {}
    for name in one:
        groups.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    rows = [
        {"module": module, **_likeness({name: one[name] for name in names}, {name: other[name] for name in names})}
        for module, names in (*groups.items(), ("all", list(one)))
    ]
    _print(rows, f"{entries[0].name} and {entries[1].name}: z − 1", as_json)


@app.command()
def export(
    experts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERT | NAME=WEIGHT...",
            help="An expert, or a mix: svf-math=0.7 svf-code=0.3. The name base is the base model, z = 1.",
        ),
    ] = None,
    *,
    out: Out,
    search: Annotated[str, typer.Option(help="Instead of experts: the mix that a search found.")] = "",
    format: Annotated[
        Format,
        typer.Option(
            help="merged: a whole Hugging Face checkpoint. lora: a PEFT LoRA, the best approximation of its rank."
        ),
    ] = Format.merged,
    rank: Annotated[int | None, typer.Option(help="Of the LoRA; if not given, the smallest that is exact.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base model, where the expert's has moved.")
    ] = None,
    dtype: Precision = None,
    as_json: Json = False,
) -> None:
    """Export an expert, or any mix, as files that need no SVF.

    A mix is of the normalised form: what is missing to a sum of 1 is spread evenly over those named. A found mix has
    the form in which it was searched. export.json, beside the files, says what they were made of.
    """
    if format == Format.merged and rank is not None:
        raise ValueError("only a LoRA has a rank; add --format lora")
    if bool(experts) == bool(search):
        raise ValueError("name either an expert or a mix, or the --search that found one")
    from t2.cli.selection import Base, select
    from t2.exchange.export import export_lora, export_merged

    selection = select(experts or [], search, Base(base, dtype=dtype))
    about = {"format": format.value, **selection.about}
    rows: list[dict[str, Any]] = []
    if format == Format.merged:
        export_merged(selection.expert, selection.base, out)
    else:
        rows = [row._asdict() for row in export_lora(selection.expert, selection.base, out, rank)]
        about |= {"rank": json.loads((out / "adapter_config.json").read_text())["r"], "discarded": rows}
    (out / "export.json").write_text(json.dumps(about, indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps({"folder": str(out), **about}))
        return
    if rows:
        shown = [row | {"layer": "all" if row["layer"] is None else row["layer"]} for row in rows]
        _print(shown, f"Rank {about['rank']}: change is ‖W' − W‖, share what of it is left out")
    typer.echo(str(out))


@app.command("import")
def import_expert(
    file: Annotated[Path, typer.Argument(help="learnable_params.pt or policy_params.pt of the paper's public code.")],
    *,
    base: Annotated[str, typer.Option(metavar="MODEL", help="Folder or Hugging Face id of the model it was made for.")],
    out: Out,
    revision: Annotated[str | None, typer.Option(help="Of a Hugging Face id.")] = None,
    dtype: Precision = None,
    basis: Annotated[str | None, typer.Option(help="A basis cache of the model, which saves decomposing it.")] = None,
    task: Annotated[str | None, typer.Option(help="What it was trained on, to be noted.")] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of its training, to be noted.")] = None,
) -> None:
    """Import an expert of the paper's public code as an SVF adapter folder. No code in the file is run."""
    from t2.cli.selection import Base
    from t2.exchange.reference import import_reference
    from t2.svf import save_expert

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; name a folder that does not, or delete it")
    noted = {"base_model_name_or_path": base, "revision": revision, "basis": basis, "task": task, "seed": seed}
    expert = import_reference(
        file,
        Base(base, revision, basis, dtype).checkpoint(),
        {key: value for key, value in noted.items() if value is not None},
    )
    save_expert(expert, out)
    summary = _summary(expert.z)
    typer.echo(f"{out}: {len(expert.z)} matrices, mean |z − 1| {_number(summary['change'])}")


# What is printed


def _summary(z: Mapping[str, Any]) -> dict[str, float]:
    """Statistics over all of an expert's z together."""
    import torch

    values = torch.cat([part.double() for part in z.values()])
    return {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        "min": float(values.min()),
        "max": float(values.max()),
        "change": float((values - 1).abs().mean()),
    }


def _likeness(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float | None]:
    """Cosine of z − 1, correlation of z (None where one does not vary), and the mean |z − z'|."""
    import torch

    from t2.svf import compare

    a, b = (torch.cat([z.double() for z in expert.values()]) for expert in (one, other))
    constant = any(bool(z.min() == z.max()) for z in (a, b))  # a standard deviation is rarely 0 to the last bit
    return {
        "size": len(a),
        "cosine": compare(one, other),
        "correlation": None if constant else float(torch.corrcoef(torch.stack([a, b]))[0, 1]),
        "distance": float((a - b).abs().mean()),
    }


def _print(rows: Sequence[Mapping[str, Any]], title: str, as_json: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(list(rows)))
        return
    header = tuple(Cell(key.replace("_", " ")) for key in rows[0])
    body = tuple(tuple(Cell(_number(value)) for value in row.values()) for row in rows)
    typer.echo(to_text(Table(title, "", header, (body,))))


def _number(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_number, value)) if isinstance(value, list) else str(value)

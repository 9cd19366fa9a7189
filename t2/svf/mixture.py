"""Mixtures of experts: z' = Σ_k w_k z_k (paper, section 3.2 C), the one definition for whoever answers prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import MappingProxyType
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from t2.svf.experts import Z, base_expert, layer_of, layers, natural, stack

Form = Literal["normalised", "free"]

BASE = "base"
"""The member of a mixture that is the base model, z = 1."""


class Population(NamedTuple):
    """Mixed experts, one per row.

    Attributes:
        tables: z' (P, r) by module name, as ``SvfModel.per_sample`` takes them; 1 where not valid.
        valid: (P,) bool: whether the rescaled form exists (Σσz' > 0 for every matrix).
    """

    tables: Z
    valid: Tensor


def mix_population(
    experts: Sequence[Mapping[str, Tensor]],
    alphas: Tensor,
    form: Form = "normalised",
    sigma: Mapping[str, Tensor] | None = None,
    renormalise: bool = True,
) -> Population:
    """Mixes K experts with P sets of weights at once: z' = Σ_k w_k z_k.

    Args:
        experts: K sets of z, (r,) by module name.
        alphas: (P, K), or (P, G, K) with a row for all matrices (G = 1), one per layer, or one per matrix; the latter
            two in natural order of the names.
        form: ``"normalised"``: w = α + (1 − Σα) / K, which sums to 1 and allows negatives. ``"free"``: w = α,
            and z' is rescaled for each matrix by Σσ / Σσz'. In either, a one-hot row is its expert, unscaled.
        sigma: Singular values (r,) by module name; the rescaling needs them.
        renormalise: Whether the free form is rescaled.

    Returns:
        The mixed z' and which of them are valid.

    Raises:
        ValueError: Shapes do not fit, or the free form lacks ``sigma``.
    """
    z = stack(experts)
    if form not in get_args(Form):
        raise ValueError(f"form is {form!r}; it must be 'normalised' or 'free'")
    rescale = form == "free" and renormalise
    if rescale and (sigma is None or not z.keys() <= sigma.keys()):
        raise ValueError("the free form rescales by singular values: pass sigma for every matrix, or renormalise=False")
    alphas = torch.as_tensor(alphas, dtype=torch.float32)
    rows = alphas[:, None] if alphas.ndim == 2 else alphas
    if rows.ndim != 3 or rows.shape[2] != len(experts):
        raise ValueError(f"alphas must be (P, {len(experts)}) or (P, G, {len(experts)}), got {tuple(alphas.shape)}")
    row_of = _row_of(z, rows.shape[1])
    weights = rows + (1 - rows.sum(-1, keepdim=True)) / len(experts) if form == "normalised" else rows
    # Rescaled, an expert whose z does not keep Σσ would no longer be what was trained.
    one_hot = ((weights == 1).sum(-1) == 1) & ((weights != 0).sum(-1) == 1)
    valid = torch.ones(len(rows), dtype=torch.bool)
    tables: Z = {}
    for name, of_experts in z.items():
        row = row_of[name]
        mixed = weights[:, row] @ of_experts
        if rescale:
            values = sigma[name].float()  # type: ignore[index]
            total = mixed @ values
            valid &= (total > 0) | one_hot[:, row]
            mixed = torch.where(one_hot[:, row, None], mixed, mixed * (values.sum() / total)[:, None])
        tables[name] = mixed
    for name, mixed in tables.items():
        tables[name] = torch.where(valid[:, None], mixed, 1.0)
    return Population(tables, valid)


def mix(
    experts: Sequence[Mapping[str, Tensor]],
    alpha: Tensor,
    form: Form = "normalised",
    sigma: Mapping[str, Tensor] | None = None,
    renormalise: bool = True,
) -> Z:
    """Mixes K experts into one; see :func:`mix_population`.

    Args:
        experts: K sets of z, (r,) by module name.
        alpha: (K,), or (G, K).
        form: ``"normalised"`` or ``"free"``.
        sigma: Singular values by module name, for the free form.
        renormalise: Whether the free form is rescaled.

    Returns:
        z' (r,) by module name.

    Raises:
        ValueError: As :func:`mix_population`; also if Σσz' <= 0 for a matrix of the free form.
    """
    tables, valid = mix_population(experts, torch.as_tensor(alpha)[None], form, sigma, renormalise)
    if not valid[0]:
        raise ValueError(
            f"alpha {torch.as_tensor(alpha).tolist()} gives a matrix with Σσz' <= 0, which cannot be "
            "rescaled to Σσ; use larger weights or the normalised form"
        )
    return {name: table[0] for name, table in tables.items()}


@dataclass(frozen=True)
class Mixture:
    """Experts by name, the base model perhaps among them, and what they weigh.

    Equal mixtures compare equal and print alike, in whatever order and spelling they were given: in the normalised
    form α and α + c too, since what is kept is what the members weigh in the end. Weights are rounded to float32, in
    which they are used.

    Attributes:
        alpha: The weights of each member by its name, a row for all matrices, one per layer or one per matrix; given
            as a number or as a sequence of G. Sorted, :data:`BASE` last. In the normalised form effective ones, which
            sum to 1; what the free form's come to after rescaling, says :meth:`effective`.
        form: Of the mix, see :func:`mix_population`. K counts the members named, those that weigh 0 too.
        renormalise: Whether the free form is rescaled.

    Raises:
        ValueError: There is no member, a name cannot be spelled, weights are not finite in float32 or differ in number.
    """

    alpha: Mapping[str, float | Sequence[float]]
    form: Form = "normalised"
    renormalise: bool = True

    def __post_init__(self) -> None:
        if not self.alpha:
            raise ValueError(f"a mixture has one member at least; name an expert, or {BASE}")
        if wrong := [name for name in self.alpha if not name or set(name) & set("=,")]:
            raise ValueError(f"{wrong[0]!r} cannot be a member of a mixture: names have no ',' or '='")
        rows = {name: _float32(name, self.alpha[name]) for name in sorted(self.alpha, key=lambda n: (n == BASE, n))}
        if len({len(row) for row in rows.values()}) > 1 or not min(map(len, rows.values())):
            sizes = ", ".join(f"{name} {len(row)}" for name, row in rows.items())
            raise ValueError(f"all members need as many weights, one or one per layer or matrix; got {sizes}")
        if self.form == "normalised":
            rows = dict.fromkeys(rows, (1.0,)) if len(rows) == 1 else _summing_to_one(rows)
        object.__setattr__(self, "alpha", MappingProxyType(rows))

    @classmethod
    def of(cls, names: Sequence[str], alpha: Tensor, form: Form = "normalised", renormalise: bool = True) -> Mixture:
        """The mixture of a table of weights.

        Args:
            names: Of K experts.
            alpha: (G, K), or (G, K + 1) with the base model's weights last; for G = 1 also (K,) or (K + 1,).
            form: See the attribute.
            renormalise: See the attribute.

        Raises:
            ValueError: The shapes do not fit.
        """
        columns = torch.atleast_2d(torch.as_tensor(alpha)).T.tolist()
        members = [*names, BASE][: max(len(columns), len(names))]
        if len(members) != len(columns):
            raise ValueError(
                f"alpha has {len(columns)} columns for {len(names)} experts; it may have one more: the base"
            )
        return cls(dict(zip(members, columns, strict=True)), form, renormalise)

    @classmethod
    def parse(cls, spelling: str, form: Form = "normalised", renormalise: bool = True) -> Mixture:
        """Reads ``math``, ``math=0.3,code=0.7,base=0.1``, or ``math=0.3:0.2,code=0.7:0.8`` with weights by layer.

        Raises:
            ValueError: It is none of these; or a single expert has a weight in the normalised form, where it would
                come to 1.
        """
        alpha: dict[str, list[float]] = {}
        for entry in spelling.split(","):
            name, equals, weights = entry.partition("=")
            if name in alpha:
                raise ValueError(f"{name!r} stands twice in {spelling!r}; write each member once")
            try:
                alpha[name] = [float(weight) for weight in weights.split(":")] if equals else [1.0]
            except ValueError:
                raise ValueError(f"{entry!r} is no NAME=WEIGHT, as in math=0.3,code=0.7") from None
        if form == "normalised" and len(alpha) == 1 and any(weights != [1.0] for weights in alpha.values()):
            raise ValueError(
                f"in the normalised form {spelling!r} alone comes to 1; half an expert is math=0.5,base=0.5"
            )
        return cls(alpha, form, renormalise)

    def __str__(self) -> str:
        """The shortest spelling that :meth:`parse` reads back."""
        rows = {name: ":".join(_spell(weight) for weight in row) for name, row in self.rows.items()}
        return ",".join(name if rows == {name: "1"} else f"{name}={row}" for name, row in rows.items())

    def __hash__(self) -> int:
        return hash((tuple(self.rows.items()), self.form, self.renormalise))

    @property
    def largest(self) -> float:
        """The largest absolute weight."""
        return max(abs(weight) for row in self.rows.values() for weight in row)

    def z(self, experts: Mapping[str, Mapping[str, Tensor]], sigma: Mapping[str, Tensor] | None = None) -> Z:
        """The mixed z' (r,) by module name.

        Args:
            experts: z (r,) by module name, by the experts' names. Their order is the order of the sum, which its last
                bits depend on: name them in one order wherever results are to be equal. The base comes last.
            sigma: Singular values (r,) by module name, for the rescaled free form.

        Raises:
            ValueError: A member is unknown, or see :func:`mix`.
        """
        if unknown := [name for name in self.alpha if name != BASE and name not in experts]:
            raise ValueError(f"alpha names {unknown}; it may name {', '.join(dict.fromkeys([*experts, BASE]))}")
        if not experts:
            raise ValueError("no experts: the base alone has no modules to name; pass one at least")
        known = {name: z for name, z in experts.items() if name != BASE and name in self.alpha}
        if BASE in self.alpha:
            known[BASE] = base_expert(next(iter(experts.values())))
        alpha = torch.tensor([self.rows[name] for name in known], dtype=torch.float32).T
        return mix(list(known.values()), alpha, self.form, sigma, self.renormalise)

    @classmethod
    def uniform(
        cls, names: Sequence[str], form: Form = "normalised", renormalise: bool = True, base: bool = False
    ) -> Mixture:
        """All experts in equal parts, and the base model too where ``base`` says so: what a search starts from."""
        members = [*names, BASE] if base else list(names)
        return cls(dict.fromkeys(members, 1 / len(members)), form, renormalise)

    def effective(
        self, experts: Mapping[str, Mapping[str, Tensor]], sigma: Mapping[str, Tensor] | None = None
    ) -> Mixture:
        """The same mixture by what its members weigh in the end: Σ_k w_k z_k with no rescaling to follow.

        The free form's weights, rescaled, differ from matrix to matrix: they come with a row per matrix. Any other
        mixture holds effective weights already and is returned as it is.

        Args:
            experts: As for :meth:`z`.
            sigma: As for :meth:`z`.

        Raises:
            ValueError: As :meth:`z`.
        """
        if not self.needs_sigma:
            return self
        rescaled, plain = self.z(experts, sigma), replace(self, renormalise=False).z(experts)
        names = sorted(rescaled, key=natural)
        row_of = _row_of(rescaled, len(next(iter(self.rows.values()))))
        weights: dict[str, list[float]] = {member: [] for member in self.rows}
        for name in names:
            of_matrix = [row[row_of[name]] for row in self.rows.values()]
            values = sigma[name].float()  # type: ignore[index]
            scale = 1.0 if _is_one_hot(of_matrix) else float(values @ rescaled[name] / (values @ plain[name]))
            for member, weight in zip(weights, of_matrix, strict=True):
                weights[member].append(weight * scale)
        return Mixture(weights, self.form, renormalise=False)

    @property
    def summary(self) -> str:
        """The spelling; with several rows, each member's mean weight and range in their place."""
        if len(next(iter(self.rows.values()))) == 1:
            return str(self)
        return ", ".join(
            f"{name} {fmean(row):.2f} ({min(row):.2f} to {max(row):.2f})" for name, row in self.rows.items()
        )

    @property
    def needs_sigma(self) -> bool:
        """Whether :meth:`z` needs singular values."""
        return self.form == "free" and self.renormalise

    @property
    def rows(self) -> Mapping[str, tuple[float, ...]]:
        """:attr:`alpha`, typed as it is kept."""
        return cast(Mapping[str, tuple[float, ...]], self.alpha)


def _row_of(names: Mapping[str, Tensor], rows: int) -> dict[str, int]:
    """Which of the rows of α each module takes."""
    if rows == 1:
        return dict.fromkeys(names, 0)
    of_layers = {layer: row for row, layer in enumerate(layers(names))}
    if rows == len(of_layers):
        return {name: of_layers[layer_of(name)] for name in names}
    if rows == len(names):
        return {name: row for row, name in enumerate(sorted(names, key=natural))}
    raise ValueError(
        f"alpha has {rows} rows; it may have 1, one per layer ({len(of_layers)}) or one per matrix ({len(names)})"
    )


def _float32(name: str, weights: float | Sequence[float]) -> tuple[float, ...]:
    rounded = torch.atleast_1d(torch.as_tensor(weights, dtype=torch.float64).float())
    if not rounded.isfinite().all():
        raise ValueError(f"the weight of {name!r} is {weights}, which is no finite number in float32; use smaller ones")
    return tuple((rounded + 0.0).tolist())  # no -0, which would print otherwise


def _summing_to_one(rows: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """What members weigh in the normalised form: α + (1 − Σα) / K. Weights that sum to 1 stay as they are."""
    table = torch.tensor(list(rows.values()), dtype=torch.float64)
    for _ in range(3):  # beside a huge α a 1 is lost in rounding; the next round brings it back
        missing = 1 - table.sum(0)
        # What rounding to float32 can leave stays, or reading a spelling would change the mixture.
        left = len(table) * torch.finfo(torch.float32).eps * table.abs().amax(0).clamp(min=1)
        table = torch.where(missing.abs() > left, table + missing / len(table), table)
    return {name: _float32(name, row) for name, row in zip(rows, table.tolist(), strict=True)}


def _is_one_hot(weights: Sequence[float]) -> bool:
    return sorted(weights)[-1] == 1 and sum(weight != 0 for weight in weights) == 1


def _spell(weight: float) -> str:
    return str(np.float32(weight)).removesuffix(".0")

"""The configuration of SVF as a PEFT method, and the one place where PEFT is told that it exists."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

from peft import PeftConfig
from peft.utils import PeftType

Parametrisation = Literal["direct", "sigmoid"]

_DEFAULT_MEAN = {"direct": 1.0, "sigmoid": 0.1}


def _extend_peft_type(name: str) -> None:
    """Adds a member to PEFT's enum of methods, which its registry accepts no names from outside of."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member


_extend_peft_type("SVF")


@dataclass
class SvfConfig(PeftConfig):
    """How z vectors are attached to a model (paper, section 3.2; its table 6 lists the settings).

    A saved configuration describes the effective z: its parametrisation is ``direct``, whatever z was trained
    with.

    Attributes:
        target_modules: Module names, a regular expression or ``"all-linear"``, as in PEFT's LoRA.
        exclude_modules: Module names or a regular expression of what to leave out.
        layers_to_transform: Indices of the layers to adapt; None: all of them.
        layers_pattern: The name of the layer list, where PEFT cannot guess it.
        parametrisation: ``"direct"``: z itself is learned. ``"sigmoid"``: p of z = sigmoid(p) · max_mult is.
        init_mean: Mean of the learned numbers at the start; None: 1 for ``direct``, 0.1 for ``sigmoid``.
        init_std: Their standard deviation at the start.
        init_seed: Seeds the generator of that noise, one per module, whatever the order of modules.
        max_mult: The largest scale that ``sigmoid`` reaches; without effect under ``renormalise``.
        renormalise: Rescale z by Σσ / Σσz, which keeps the sum of a weight's singular values.
        basis: Folder of the basis cache; None: bases are computed when the adapter is injected. So are those of a
            saved adapter whose cache is not there.
        basis_fingerprint: The hash over the adapted base weights. Filled in on injection; where it is given
            and differs from the model's, the adapter is refused.
        rounded_fingerprint: The same over the weights rounded to bfloat16: on the same base in another dtype the
            adapter is accepted, with a note. Filled in on injection.
        basis_dtype: The dtype of those weights. Filled in on injection.
        quantisation: How they are quantised, ``"int8"`` or ``"nf4"``; None: not. Filled in on injection.
        checksum: The hash over z as the adapter's file holds it, filled in when it is saved; None: not checked.
        task: What the expert was trained on.
        seed: The seed it was trained with.
        modules_to_save: Names of modules that are trained and saved whole beside z, as in PEFT's LoRA.
        resumable: Whether an adapter that is trained as more than z itself is saved with the parameters behind its z
            too, from which ``load_adapter`` and thereby transformers' Trainer go on to the bit. Not saved itself.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    parametrisation: Parametrisation = "direct"
    init_mean: float | None = None
    init_std: float = 0.0
    init_seed: int = 0
    max_mult: float = 2.0
    renormalise: bool = False
    basis: str | None = None
    basis_fingerprint: str | None = None
    rounded_fingerprint: str | None = None
    basis_dtype: str | None = None
    quantisation: str | None = None
    checksum: str | None = None
    task: str | None = None
    seed: int | None = None
    modules_to_save: list[str] | None = None
    resumable: bool = True

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: Names the setting, its value and what is allowed.
        """
        super().__post_init__()
        self.peft_type = PeftType("SVF")
        if self.parametrisation not in _DEFAULT_MEAN:
            raise ValueError(f"parametrisation is {self.parametrisation!r}; it must be 'direct' or 'sigmoid'")
        if self.init_mean is None:
            self.init_mean = _DEFAULT_MEAN[self.parametrisation]
        if self.init_std < 0:
            raise ValueError(f"init_std is {self.init_std}; it must be at least 0")
        if self.max_mult <= 0:
            raise ValueError(f"max_mult is {self.max_mult}; it must be above 0")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform needs target_modules as a list of names, got {self.target_modules!r}; "
                "write the layers into the regular expression, or list the names"
            )

    @property
    def is_direct(self) -> bool:
        """Whether the parameters are z itself."""
        return self.parametrisation == "direct" and not self.renormalise

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; names are sorted, since PEFT keeps them in sets of no fixed order."""
        fields: dict[str, Any] = super().to_dict()
        for name in ("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save"):
            if isinstance(fields[name], (list, set, tuple)):
                fields[name] = sorted(fields[name])
        del fields["resumable"]
        if fields["modules_to_save"] is None:
            del fields["modules_to_save"]
        return fields

    @property
    def at_rest(self) -> float:
        """The learned number at which z is 1: where weight decay is to pull.

        Raises:
            ValueError: There is none: ``sigmoid`` reaches ``max_mult`` at most, and only in the limit.
        """
        if self.parametrisation == "direct":
            return 1.0
        if self.renormalise:  # any constant is
            return float(self.init_mean or 0.0)
        if self.max_mult <= 1:
            raise ValueError(
                f"sigmoid with max_mult = {self.max_mult} never reaches z = 1, where weight decay pulls; set "
                "training.weight_decay to 0, or a larger max_mult"
            )
        return -math.log(self.max_mult - 1)

    def effective(self) -> SvfConfig:
        """A copy for an adapter whose parameters are the z that this one's mean."""
        copied = copy.copy(self)
        copied.parametrisation, copied.init_mean, copied.init_std, copied.renormalise = "direct", 1.0, 0.0, False
        return copied

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Writes ``adapter_config.json`` for an adapter that holds the effective z."""
        super(SvfConfig, self.effective()).save_pretrained(save_directory, **kwargs)


def layer_indices(layers: Literal["all", "half"] | list[int], depth: int) -> list[int] | None:
    """The layers to adapt, as PEFT's ``layers_to_transform`` takes them.

    Args:
        layers: ``"half"`` is the upper half: gradients need not reach the layers below, which saves the most
            memory. The paper adapts half of the layers of its largest models and does not say which.
        depth: The number of layers of the model.

    Raises:
        ValueError: An index outside of the model.
    """
    if layers == "all":
        return None
    if layers == "half":
        return list(range(depth // 2, depth))
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside:
        raise ValueError(f"svf.layers names {outside}; this model has layers 0 to {depth - 1}")
    return sorted(layers)

"""Bytes of the few things that the pipeline does with a model. T is a number of tokens, r the width of a basis."""

from __future__ import annotations

from t2.plan.shapes import Attached, Shapes, basis_bytes


def basis_of_adapted(shapes: Shapes) -> int:
    """Q and σ of the adapted matrices, as they lie beside the weights."""
    return basis_bytes(shapes.adapted)


def folded(shapes: Shapes) -> int:
    """W' of the adapted matrices; a quantised base has none."""
    if shapes.quantisation is not None:
        return 0
    return shapes.width * sum(m.size for m in shapes.adapted)


def folding(shapes: Shapes) -> int:
    """While one W' is built: W and W' in float32 and two products of Q; of a quantised base, one layer's weight."""
    if shapes.quantisation is not None:
        return shapes.width * max(m.size for m in shapes.linears)
    return max(8 * m.size + 8 * m.rank**2 for m in shapes.adapted)


def decomposing(shapes: Shapes) -> int:
    """While one matrix is decomposed: itself, its Gram matrix, the eigenvectors and as much again to work in."""
    return max(shapes.width * m.size + 4 * 8 * m.rank**2 for m in shapes.adapted)


def cached_token(shapes: Shapes) -> int:
    """Keys and values of one token."""
    return 2 * shapes.layers * shapes.keys * shapes.width


def answering(shapes: Shapes, batch: int, prompt: float, longest: float) -> float:
    """Keys and values of a batch, and the larger of what prompts and logits need for a moment."""
    prompts = batch * prompt * (3 * shapes.intermediate * shapes.width + 12 * shapes.hidden)
    logits = batch * shapes.vocabulary * (shapes.width + 20)
    return batch * (prompt + longest) * cached_token(shapes) + max(prompts, logits)


def kept_by_layers(shapes: Shapes, first: int) -> float:
    """What the backward pass needs of a token's way through the layers from ``first`` up, with fused attention.

    In each: the inputs of its two norms in float32; queries, keys, values and the attention's output; the MLP's
    gate, its activation and the other half.
    """
    inner = 2 * shapes.queries + 2 * shapes.keys + 3 * shapes.intermediate
    return (shapes.layers - first) * (8 * shapes.hidden + shapes.width * inner)


def kept_by_svf(shapes: Shapes) -> float:
    """What it needs besides for z: a tall matrix's input (one block's share it), a wide one's output.

    Of a quantised base: each matrix's coordinates along Q and, in int8, each layer's input.
    """
    if shapes.quantisation is not None:
        inner = shapes.width * sum(m.rank for m in shapes.adapted)
        rounded = [m.columns for m in shapes.linears if m.layer >= shapes.first_adapted]
        return inner + (shapes.width * sum(rounded) if shapes.quantisation == "int8" else 0)
    inputs = {(m.name.rpartition(".")[0], m.columns) for m in shapes.adapted if m.rows >= m.columns}
    # A value is kept by the attention already.
    outputs = [m.rows for m in shapes.adapted if m.rows < m.columns and not m.name.endswith("v_proj")]
    return shapes.width * (sum(columns for _, columns in inputs) + sum(outputs))


def kept_by_lora(adapter: Attached) -> float:
    """What it needs besides for a LoRA: each input after dropout in float32, the dropout's mask, and A's output."""
    return sum(5 * m.columns + 4 * adapter.rank for m in adapter.targets)


def kept_inputs(shapes: Shapes, first: int) -> float:
    """What is kept of a token where layers run again in the backward pass: the input of each from ``first`` up."""
    return (shapes.layers - first) * shapes.hidden * shapes.width


def logits(shapes: Shapes, answers: float, divergence: bool, chunk: int | None = None) -> float:
    """Logits of answer tokens and what the objective makes of them, at the start of the backward pass.

    In chunks, the hidden states of all answers stay, with their gradient.
    """
    each = shapes.vocabulary * (20 + 2 * shapes.width if divergence else 12)
    if chunk is None:
        return answers * each
    states = answers * shapes.hidden * shapes.width * (3 if divergence else 2)
    return min(chunk, answers) * each + states


def gradients(shapes: Shapes, tokens: float) -> float:
    """What the backward pass of one layer needs for a moment."""
    return tokens * max(3 * shapes.intermediate * shapes.width, 22 * shapes.hidden)


def learning(
    shapes: Shapes,
    kept: float,
    *,
    samples: float,
    prompt: float,
    reply: float,
    divergence: bool,
    recomputed: float = 0.0,
    chunk: int | None = None,
) -> float:
    """The peak of a micro-batch's gradient, above the model.

    Args:
        shapes: Of the model.
        kept: Bytes per token, from the forward pass to the backward pass.
        samples: At once.
        prompt: Tokens.
        reply: Tokens.
        divergence: Whether the base model runs too, for the KL.
        recomputed: Bytes per token that a layer makes anew when its turn in the backward pass comes.
        chunk: Answer tokens whose logits exist at once; None: all.
    """
    tokens = samples * (prompt + reply - 1)
    backward = tokens * recomputed + gradients(shapes, tokens)
    return tokens * kept + max(logits(shapes, samples * reply, divergence, chunk), backward)

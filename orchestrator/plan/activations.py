"""What a trainer rank keeps from the forward to the backward pass of one micro-batch, and the temporaries beside it (pure).

Neighbours: `training` multiplies it by the micro-batches in flight. Invariant: the terms are those of `actor.megatron.model` and
`actor.megatron.attention`, counted as distinct storages that autograd keeps (a test counts them in a real forward pass).

Derivation. A rank runs n rows (packed tokens) of a micro-batch through layers whose matrices are split over t tensor-parallel ranks;
e is the bytes of an element, s = t with sequence parallelism and 1 without. Autograd keeps, in one layer:

    tensor                                       shape                bytes
    RMS norm, twice                              x and 1/rms          2 x (e n H + 4 n) / s
    the norms' outputs, input of qkv and fc1     [n, H] twice         2 e n H / s
    query and output of the attention calls      [P, h/t, D] twice    2 e P (h/t) D
    keys and values of the calls                 [K, g/t, D] twice    2 e K (g/t) D   (CUDA, where calls have masks: h for g)
    log-sum-exp of the softmax                   [P, h/t] float32     4 P h/t
    the calls' masks in the layer's dtype        M entries            e M, in bfloat16 alone (float32 is shared by all layers)
    rotary factors in the layer's dtype          [n, D] twice         2 e n D, in bfloat16 alone
    input of the output projection               [n, (h/t) D]         e n (h/t) D
    fc1's output (gate and up)                   [n, 2 F/t]           2 e n F/t
    silu(gate) x up, input of fc2                [n, F/t]             e n F/t

The linear layers run on packed rows; only the attention calls are padded: P query rows and K key rows over all calls. Under sequence
parallelism Megatron keeps the scattered input of a column-parallel layer and gathers it again, hence H / s. Keys come from all
context-parallel ranks. The norms' x is the residual stream itself.

All this is for kernels=torch; Transformer Engine's modules and Megatron's fused SwiGLU keep the same.

recompute="selective" keeps the core attention's inputs instead of what is inside it, in place of the rows on calls, softmax, masks
and rotary factors: keys and values are views of the whole projection [n, (h + 2g)/t, D], the query is a copy [n, h/t, D]. Where
calls have no padding and no mask that saves little, since SDPA keeps no scores anyway. "full" keeps each layer's input alone,
e n H / s; the backward pass then holds one layer's tensors at a time.

LoRA adds the inner activations [n, r] of four linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from actor import logits_at_once
from orchestrator.plan.sizes import ModelSizes

LORA_LAYERS = 4  # qkv, output projection, fc1, fc2


@dataclass(frozen=True, slots=True)
class Rows:
    """One micro-batch on one rank. rows: packed rows n; query_rows P, key_rows K: of the attention calls, padding included;
    mask_entries M: of their masks; head_rows T: rows that predict a response token."""

    rows: int
    query_rows: int
    key_rows: int
    mask_entries: int
    head_rows: int

    @classmethod
    def one_sequence(cls, tokens: int, context: int, response: int | None = None) -> Rows:
        """The largest micro-batch: one sequence of `tokens`, `response` of them (None: all) after the prompt. Each of `context`
        ranks has two stretches of tokens / 2 context rows, the worst-placed of which sees all keys and needs a mask."""
        predicted = min(tokens, response if response is not None else tokens)
        if context == 1:
            return cls(tokens, tokens, tokens, 0, predicted)
        piece = -(-tokens // (2 * context))
        keys = tokens + piece
        return cls(2 * piece, 2 * piece, keys, piece * keys, -(-predicted // context))


@dataclass(frozen=True, slots=True)
class Method:
    """How a trainer computes. element: bytes of a number; tensor t; sequence: sequence parallelism; cuda: masked attention calls repeat
    keys and values for every query head there; recompute: none | selective | full; lora_rank: 0 for none."""

    element: int
    tensor: int
    sequence: bool
    cuda: bool
    recompute: str
    lora_rank: int = 0

    @property
    def split(self) -> int:
        return self.tensor if self.sequence else 1


def norm_bytes(sizes: ModelSizes, rows: int, method: Method) -> int:
    """What one RMS norm keeps."""
    return (method.element * rows * sizes.hidden + 4 * rows) // method.split


def core_attention_bytes(sizes: ModelSizes, rows: Rows, method: Method) -> int:
    """Inside the attention calls of one layer: queries, keys, values, outputs, softmax, and the layer's own casts."""
    heads, groups, e = sizes.heads // method.tensor, sizes.kv_heads // method.tensor, method.element
    if method.cuda and rows.mask_entries:
        groups = heads
    calls = 2 * e * sizes.head_dim * (rows.query_rows * heads + rows.key_rows * groups) + 4 * rows.query_rows * heads
    casts = e * rows.mask_entries + 2 * e * rows.rows * sizes.head_dim if e < 4 else 0
    return calls + casts


def layer_bytes(
    sizes: ModelSizes, rows: Rows, method: Method, recompute: str | None = None, mlp_rows: int | None = None
) -> int:
    """Kept by one layer; recompute: instead of the method's own; mlp_rows: where the layer goes on with fewer after its attention."""
    n, e, t = rows.rows, method.element, method.tensor
    m = n if mlp_rows is None else mlp_rows
    recompute = method.recompute if recompute is None else recompute
    stream = e * sizes.hidden // method.split
    if recompute == "full":
        return n * stream
    attention = (
        e * n * 2 * (sizes.heads + sizes.kv_heads) // t * sizes.head_dim
        if recompute == "selective"
        else core_attention_bytes(sizes, rows, method)
    )
    low_rank = LORA_LAYERS // 2 * e * method.lora_rank
    before = (
        norm_bytes(sizes, n, method) + n * (stream + low_rank) + attention + e * n * sizes.heads // t * sizes.head_dim
    )
    return before + norm_bytes(sizes, m, method) + m * (stream + low_rank) + 3 * e * m * sizes.ffn // t


def layers_bytes(sizes: ModelSizes, rows: Rows, method: Method, layers: int, *, first: bool, last: bool) -> int:
    """Kept by `layers` layers. first: the embedding is right below them; with LoRA it is frozen, and where nothing is computed again the
    lowest norm then has no gradient to pass on and keeps nothing. last: the head is right above them, so that without sequence
    parallelism the last layer's MLP runs on the predicting rows alone."""
    ungraded = first and method.lora_rank and method.recompute == "none"
    pruned = rows.head_rows if last and not method.sequence else None
    whole = (layers - 1) * layer_bytes(sizes, rows, method) + layer_bytes(sizes, rows, method, mlp_rows=pruned)
    return whole - (norm_bytes(sizes, rows.rows, method) if ungraded else 0)


def once_bytes(sizes: ModelSizes, rows: Rows, method: Method) -> int:
    """What a micro-batch brings along whatever the layers: ids, row numbers (8 bytes each), masks and rotary factors in float32."""
    numbers = 8 * (2 * rows.rows + rows.query_rows + rows.key_rows)
    return numbers + 4 * rows.mask_entries + 2 * 4 * rows.rows * sizes.head_dim


def head_bytes(sizes: ModelSizes, rows: Rows, method: Method, chunk: tuple[int, int], *, critic: bool) -> int:
    """Kept after the last layer: the final norm, the predicting rows, and figures of each response token. Where all logits make
    one chunk (rows, columns), their exponentials in float32 are kept too."""
    normed = rows.rows if method.sequence else rows.head_rows
    kept = norm_bytes(sizes, normed, method) + method.element * rows.head_rows * sizes.hidden
    if critic:
        return kept + 8 * rows.head_rows
    width = sizes.vocab // method.tensor
    most_rows, most_columns = logits_at_once(*chunk, width)
    whole = rows.head_rows <= most_rows and width <= most_columns
    return kept + 29 * rows.head_rows + (4 * rows.head_rows * width if whole else 0)


def layer_working_bytes(sizes: ModelSizes, rows: Rows, method: Method) -> int:
    """Temporaries while one layer goes backward: what is computed again, and the gradients of the MLP's intermediates (product, silu,
    and gate with up in one: 4 n F/t) beside two of the residual stream."""
    n, e = rows.rows, method.element
    again = layer_bytes(sizes, rows, method, "none") - layer_bytes(sizes, rows, method)
    return max(0, again) + 4 * e * n * sizes.ffn // method.tensor + 2 * e * n * sizes.hidden


def head_working_bytes(
    sizes: ModelSizes, rows: Rows, method: Method, chunk: tuple[int, int], *, critic: bool, head_trained: bool
) -> int:
    """Temporaries while the head goes backward: three chunks of logits, the rows' gradient, the matrix's gradient before it is
    added to the buffer; float32. Under sequence parallelism the gathered rows, too."""
    gathered = method.element * rows.rows * sizes.hidden if method.sequence else 0
    if critic:
        return gathered + 4 * rows.head_rows * sizes.hidden
    width = sizes.padded_vocab // method.tensor
    most_rows, most_columns = logits_at_once(*chunk, width)
    logits = min(most_rows, rows.head_rows) * most_columns
    matrix = (4 + (method.element if method.element < 4 else 0)) * width * sizes.hidden if head_trained else 0
    return gathered + 3 * 4 * logits + 4 * rows.head_rows * sizes.hidden + matrix

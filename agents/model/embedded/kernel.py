"""The arithmetic of the forward pass: in the library of `compiled/`, called through ctypes, or else in torch.

Invariant: a token's numbers depend on its own row alone, bit for bit: not on the other rows, the passes
that they share, or the number of threads. Without the library this holds for products where torch's does
for 16 rows and more, and for attention only up to rounding. This module knows nothing about models.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F

LANES = 16
"""Elements of a vector in the library, tokens in one of its blocks, and in one page of the cache."""
PAIR = 32
"""The features of a product with AMX are a multiple of this number, and its outputs a multiple of LANES."""
DRAW_BLOCK = 256
"""The library draws from vocabularies whose size is a multiple of this number."""


def _struct(name: str, **kinds: str) -> type[ctypes.Structure]:
    """Return the struct of this name in the library; `kinds` has the names of its fields by their type."""
    types = {"pointers": ctypes.c_void_p, "counts": ctypes.c_int64, "flags": ctypes.c_int32}
    fields = [
        (field, types.get(kind.rstrip("_"), ctypes.c_float))
        for kind, names in kinds.items()
        for field in names.split()
    ]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_Matrix = _struct("matrix", pointers="weight bias out", counts="n")
_Product = _struct("product", pointers="matrices x packed", counts="count tokens k", flags="bf16 amx")
_Attention = _struct(
    "attention",
    pointers="q k v out keys values pages row position",
    counts="tokens heads kv_heads dim most window",
    floats="scale",
    flags="bf16",
)
_Norm = _struct("norm", pointers="x delta weight out", counts="rows size", floats="eps more")
_Rotation = _struct("rotation", pointers="x cos sin position", counts="tokens heads dim")
_Gate = _struct("gate", pointers="gate up", counts="count")
_Draw = _struct("draw", pointers="logits uniform inverse_t least tokens", counts="rows size")
_STRUCTS = (_Matrix, _Product, _Attention, _Norm, _Rotation, _Gate, _Draw)


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library; None if the installation has not built it from these sources."""
    found = find_spec("agents.model.embedded._kernel")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    for struct in _STRUCTS:
        size = getattr(library, f"{struct.__name__}_bytes", None)
        if size is None:
            return None
        size.restype = ctypes.c_int64
        if size() != ctypes.sizeof(struct):  # an older library, with another struct
            return None
    for name in ("multiply", "attend", "norm", "silu_gate", "draw"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_int]
        getattr(library, name).restype = None
    for name in ("store", "rotate"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = None
    return library


@cache
def has_amx() -> bool:
    """Return whether the library multiplies bfloat16 with AMX here."""
    found = library()
    return found is not None and bool(found.has_amx())


class Linear:
    """Weight matrices with the same input, whose products are computed together."""

    def __init__(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None] = ()) -> None:
        """Take matrices `(out, in)` of one type, contiguous, and for each a bias float32 `(out,)` or None."""
        self._weights, self._biases = list(weights), list(biases) or [None] * len(weights)
        self._library = library()
        self._sizes = [len(weight) for weight in weights]
        self._features = weights[0].shape[1]
        self._bf16 = weights[0].dtype == torch.bfloat16
        whole = self._features % PAIR == 0 and not any(size % LANES for size in self._sizes)
        self._amx = self._bf16 and whole and has_amx()
        pairs = zip(weights, self._biases, strict=True)
        self._matrices = (_Matrix * len(weights))(
            *(_Matrix(w.data_ptr(), None if b is None else b.data_ptr(), None, len(w)) for w, b in pairs)
        )

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the product with each matrix, float32 `(tokens, out)`; `x` is float32 `(tokens, in)`."""
        if self._library is None:
            return self._in_torch(x)
        x = x.contiguous()
        tokens = len(x)
        outputs = [torch.empty(tokens, size) for size in self._sizes]
        for matrix, output in zip(self._matrices, outputs, strict=True):
            matrix.out = output.data_ptr()
        # Blocks go in pairs: what lies behind the last one is read too, and its sums are not used.
        packed = torch.empty((-(-tokens // LANES) + 1) * LANES * self._features)
        product = _Product(
            *(ctypes.addressof(self._matrices), x.data_ptr(), packed.data_ptr()),
            *(len(outputs), tokens, self._features, self._bf16, self._amx),
        )
        self._library.multiply(ctypes.addressof(product), torch.get_num_threads())
        return outputs

    def _in_torch(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Do the same in torch, which adds up in another order for fewer than LANES tokens: fill up."""
        tokens = len(x)
        if tokens < LANES:
            x = F.pad(x, (0, 0, 0, LANES - tokens))
        x = x.to(self._weights[0].dtype)
        outputs = [F.linear(x, weight)[:tokens].float() for weight in self._weights]
        return [out if bias is None else out + bias for out, bias in zip(outputs, self._biases, strict=True)]


class Norm:
    """Division by the root mean square, and multiplication by a weight."""

    def __init__(self, weight: torch.Tensor, eps: float, *, plus_one: bool = False) -> None:
        """Take a weight float32 `(size,)`; with `plus_one` the factor is the weight plus one."""
        self._weight, self._eps, self._plus_one = weight, eps, plus_one
        self._library = None if len(weight) % LANES else library()

    def __call__(self, x: torch.Tensor, delta: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normed `x`, float32 `(..., size)`, after `delta` is added to `x` in place."""
        if self._library is None:
            if delta is not None:
                x.add_(delta)
            if self._plus_one:
                return F.rms_norm(x, self._weight.shape, None, self._eps).mul_(1 + self._weight)
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        assert x.is_contiguous()
        size, out = len(self._weight), torch.empty_like(x)
        work = _Norm(
            *(x.data_ptr(), None if delta is None else delta.data_ptr(), self._weight.data_ptr()),
            *(out.data_ptr(), x.numel() // size, size, self._eps, float(self._plus_one)),
        )
        self._library.norm(ctypes.addressof(work), torch.get_num_threads())
        return out


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return `x`, float32 `(tokens, heads, dim)`, with the rotary embedding applied; `x` itself may change.

    Args:
        x: Queries or keys.
        cos: Cosines of all positions, `(positions, dim)`.
        sin: Sines of all positions, `(positions, dim)`; those of the first half are negated.
        positions: The tokens' positions, int32 `(tokens,)`.
    """
    found = library()
    if found is None:
        half, at = x.shape[-1] // 2, positions.long()
        swapped = torch.cat((x[..., half:], x[..., :half]), -1)
        return torch.addcmul(x * cos[at][:, None], swapped, sin[at][:, None])
    x = x.contiguous()
    work = _Rotation(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), positions.data_ptr(), *x.shape)
    found.rotate(ctypes.addressof(work))
    return x


def silu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up, float32 `(tokens, features)`; `gate` itself may change."""
    found = library()
    if found is None or gate.numel() % LANES:
        return F.silu(gate).mul_(up)
    work = _Gate(gate.data_ptr(), up.data_ptr(), gate.numel())
    found.silu_gate(ctypes.addressof(work), torch.get_num_threads())
    return gate


def draw(
    logits: torch.Tensor, temperatures: Sequence[float], min_p: Sequence[float], uniforms: Sequence[float]
) -> list[int] | None:
    """Return a token for each row of the logits `(rows, vocab_size)`; None if the library cannot draw them.

    See `agents.model.embedded.draw`.
    """
    found = library()
    if found is None or logits.shape[-1] % DRAW_BLOCK or logits.dtype != torch.float32:
        return None
    logits = logits.contiguous()
    tokens = torch.empty(len(logits), dtype=torch.int64)
    numbers = torch.tensor(uniforms, dtype=torch.float64)
    settings = torch.tensor([[1 / temperature for temperature in temperatures], list(min_p)])
    work = _Draw(
        *(logits.data_ptr(), numbers.data_ptr(), settings[0].data_ptr(), settings[1].data_ptr()),
        *(tokens.data_ptr(), *logits.shape),
    )
    found.draw(ctypes.addressof(work), torch.get_num_threads())
    drawn: list[int] = tokens.tolist()
    return drawn


class Attention:
    """The attention of some tokens to their rows' cached tokens, in one pass through the layers."""

    def __init__(
        self, pages: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, *, heads: int, scale: float
    ) -> None:
        """Name the tokens of the pass.

        Args:
            pages: The pages of each row, in order, int32 `(rows, most)`.
            rows: The row of each token, int32 `(tokens,)`.
            positions: The place of each token in its row, int32 `(tokens,)`.
            heads: Query heads.
            scale: What a query's product with a key is multiplied by.
        """
        self._pages, self._rows, self._positions = pages, rows, positions
        self._heads, self._scale = heads, scale
        self._library = library()

    def store(self, keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write the tokens' keys and values, `(tokens, kv_heads, dim)`, into a layer's cache.

        `keys` is `(pages, kv_heads, dim, LANES)` and `values` is `(pages, kv_heads, LANES, dim)`.
        """
        if self._library is None or k.shape[-1] % LANES:
            pages = self._pages[self._rows.long(), self._positions.long() // LANES].long()
            places = self._positions.long() % LANES
            keys[pages, :, :, places] = k.to(keys.dtype)
            values[pages, :, places] = v.to(values.dtype)
            return
        k, v = k.contiguous(), v.contiguous()
        work = self._work(keys, values, k=k.data_ptr(), v=v.data_ptr(), tokens=len(k))
        self._library.store(ctypes.addressof(work))

    def __call__(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int = 0
    ) -> torch.Tensor:
        """Return the attention of the tokens' queries, `(tokens, heads, dim)`, in one layer.

        A token sees its row's tokens up to itself: all of them, or the last `window` if that is not 0.
        """
        if self._library is None or q.shape[-1] % LANES:
            return self._in_torch(q, keys, values, window)
        q = q.contiguous()
        out = torch.empty_like(q)
        work = self._work(keys, values, q=q.data_ptr(), out=out.data_ptr(), tokens=len(q), window=window)
        self._library.attend(ctypes.addressof(work), torch.get_num_threads())
        return out

    def _work(self, keys: torch.Tensor, values: torch.Tensor, **fields: int) -> ctypes.Structure:
        return _Attention(
            **fields,
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            pages=self._pages.data_ptr(),
            row=self._rows.data_ptr(),
            position=self._positions.data_ptr(),
            heads=self._heads,
            kv_heads=keys.shape[1],
            dim=keys.shape[2],
            most=self._pages.shape[1],
            scale=self._scale,
            bf16=keys.dtype == torch.bfloat16,
        )

    def _in_torch(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int
    ) -> torch.Tensor:
        positions = self._positions.long()[:, None]
        used = int(positions.max()) // LANES + 1
        pages = self._pages[self._rows.long(), :used]
        k, v = gathered(keys, values, pages)
        places = torch.arange(used * LANES)
        seen = places <= positions
        if window:
            seen &= places > positions - window
        # What lies beyond a row's end is whatever was there before, and NaN times zero is still NaN.
        k, v = (torch.where(seen[:, None, :, None], each, 0.0) for each in (k, v))
        group = self._heads // keys.shape[1]
        attended = F.scaled_dot_product_attention(
            q.view(len(q), keys.shape[1], group, -1),
            k,
            v,
            seen[:, None, None].expand(-1, 1, group, -1),
            scale=self._scale,
        )
        return attended.reshape(q.shape)


def gathered(
    keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return copies of the keys and values of whole rows, float32 `(rows, kv_heads, tokens, dim)`.

    `pages` has the numbers of each row's pages, in order, `(rows, pages)`.
    """
    numbers = pages.long()
    k = keys[numbers].float().permute(0, 2, 1, 4, 3).flatten(2, 3)
    v = values[numbers].float().transpose(1, 2).flatten(2, 3)
    return k, v

"""The convolutional part of SincNet, fast on CUDA.

The same function as ``SincNet.cnn``, values and gradients, as a few Triton
kernels a layer (:mod:`amsincnet_sb.nnet.fast_cuda.kernels`). A layer is
convolution, magnitude (sinc layer), max-pooling, normalisation over time and
LeakyReLU. What makes it fast:

* tensor cores: the sinc layer is a block-Toeplitz GEMM (a block of outputs is
  a banded matrix times a piece of the signal), the others are implicit GEMMs;
* the maps before pooling, the largest tensors of the network, are never
  written in the forward pass: pooling happens in registers;
* statistics, gain, shift and LeakyReLU are one kernel forward and two
  backward.

Arithmetic is in bfloat16 under bfloat16 autocast; in TF32 where
``torch.set_float32_matmul_precision`` allows it; otherwise as three TF32
products, which is float32's accuracy. Sums are in float32 always. No kernel
uses atomics: results repeat bit for bit.
"""

import importlib.util
import math
import os
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

__all__ = ["cnn", "conv", "finiteness", "linear", "sinc_map", "supports"]

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# From so many numbers on a kernel of its own pays.
_LARGE = 2**14
_MARK_BLOCK = 4096
# As TimeLayerNorm: keeps the square root differentiable at zero.
_TINY = 1e-20


def _tag_compiled():
    """Keep programs compiled with other versions of the operators apart.

    torch.compile keeps what it made between runs, under the names of the
    operators alone; a gradient that has changed since would not be seen.
    """
    config = getattr(torch.compiler, "config", None)
    if not hasattr(config, "cache_key_tag"):  # an older PyTorch
        return
    sources = sorted(Path(__file__).parent.glob("*.py"))
    tag = f"amsincnet-{zlib.crc32(b''.join(s.read_bytes() for s in sources))}"
    if tag not in config.cache_key_tag:
        config.cache_key_tag += tag


_tag_compiled()


def supports(x):
    """Whether :func:`cnn` can run where a tensor lies.

    Arguments
    ---------
    x : torch.Tensor
        Any tensor of the computation.

    Returns
    -------
    bool
        True on a CUDA device of compute capability 8.0 or later with Triton
        installed, and in Triton's interpreter.

    Example
    -------
    >>> supports(torch.zeros(1))
    False
    """
    if not _HAS_TRITON or _INTERPRETED:
        return _HAS_TRITON
    return (
        x.is_cuda
        and x.dtype in (torch.float32, torch.bfloat16)
        and _capable(x.device.index)
    )


@torch.compiler.assume_constant_result
def _capable(index):
    """Whether a CUDA device's tensor cores know bfloat16 and TF32."""
    return (
        torch.cuda.is_available()
        and torch.version.hip is None
        and torch.cuda.get_device_capability(index) >= (8, 0)
    )


def cnn(x, input_norm, filters, convs, norms, pools, eps=1e-6, slope=0.2):
    """SincNet's convolutional part.

    Arguments
    ---------
    x : torch.Tensor
        Windows, ``[batch, time]``.
    input_norm : tuple of torch.Tensor
        Gain and bias of the input's normalisation, each ``[time]``.
    filters : torch.Tensor
        Impulse responses of the sinc layer, ``[channels, taps]``.
    convs : list of tuple of torch.Tensor
        Weight ``[out, in, taps]`` and bias ``[out]`` of each convolution
        behind the sinc layer.
    norms : list of tuple of torch.Tensor
        Gain and bias of the normalisation behind each layer, ``[channels,
        pooled time]``.
    pools : sequence of int
        Max-pooling behind each layer.
    eps : float
        Added to standard deviations.
    slope : float
        Of the LeakyReLUs for negative numbers; at least 0.

    Returns
    -------
    torch.Tensor
        ``[batch, channels * time]``, channel-major; of the precision computed
        in. Differentiable once with respect to every tensor given.
    """
    layers = input_norm, filters, convs, norms, pools
    return _map_of(x, layers, eps, slope, 0.0).transpose(1, 2).flatten(1)


def _map_of(x, layers, eps, slope, floor, keep=None):
    """Time-major."""
    input_norm, filters, convs, norms, pools = layers
    x = _padded_sinc_map(
        x, input_norm, filters, norms[0], pools[0], eps, slope, floor, keep
    )
    for conv, norm, pool in zip(convs, norms[1:], pools[1:]):
        with torch.autocast(x.device.type, enabled=False):
            x = _conv_layer(x, *conv, *norm, pool, eps, slope)[0]
    return x[..., : len(norms[-1][0])]


def sinc_map(
    x,
    input_norm,
    filters,
    norm,
    pool,
    eps=1e-6,
    slope=0.2,
    floor=0.0,
    keep=None,
):
    """The sinc layer alone: filtered, pooled, normalised, rectified.

    Arguments
    ---------
    x, filters, eps, slope
        See :func:`cnn`.
    input_norm : tuple of torch.Tensor, optional
        Likewise; without it the input is normalised and no more.
    norm : tuple of torch.Tensor
        Gain and bias of the normalisation, each ``[channels, time]``.
    pool : int
        Max-pooling of the magnitudes.
    floor : float
        Where positive, ``log(magnitude + floor)`` is what is normalised.
    keep : torch.Tensor, optional
        ``[batch, channels]``, bool; what it does not name becomes zero.

    Returns
    -------
    torch.Tensor
        ``[batch, time, channels]``, of the precision computed in.
        Differentiable once with respect to every tensor given.
    """
    if keep is not None:
        keep = F.pad(keep.to(torch.int8), (0, -len(filters) % 16))
    layers = input_norm, filters, [], [norm], [pool]
    return _map_of(x, layers, eps, slope, floor, keep)


def _padded_sinc_map(
    x, input_norm, filters, norm, pool, eps, slope, floor, keep
):
    dtype = _product_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
        x = centred / ((variance + _TINY).sqrt() + eps)
        if input_norm is not None:
            x = x * input_norm[0] + input_norm[1]
        return _sinc_layer(
            x, filters, *norm, keep, pool, eps, slope, floor, dtype
        )[0]


def _product_dtype(x):
    """Precision of products: autocast's where that is on."""
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    # The range of float16 is too small for gradients without loss scaling.
    if dtype == torch.float16 and torch.is_grad_enabled():
        return torch.bfloat16
    return dtype


def conv(x, weight, stride=1):
    """A strided convolution of time-major maps, as implicit GEMMs.

    Arguments
    ---------
    x : torch.Tensor
        ``[batch, time, in]``.
    weight : torch.Tensor
        ``[out, in, taps]``.
    stride : int
        Step between output positions.

    Returns
    -------
    torch.Tensor
        ``[batch, (time - taps) // stride + 1, out]``, of the precision
        computed in. Differentiable once.
    """
    dtype = _product_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        channels, out = x.shape[2], len(weight)
        # Rows that tensor cores can read.
        pad_in, pad_out = -channels % 16, -out % 16
        if pad_in:
            x = F.pad(x, (0, pad_in))
        if pad_in or pad_out:
            weight = F.pad(weight, (0, 0, 0, pad_in, 0, pad_out))
        # Layouts are made outside of the kernels' operator, so that the
        # compiler makes them while it writes what it writes anyway.
        matrix = weight.detach().to(dtype).permute(2, 1, 0)
        matrix = matrix.reshape(-1, len(weight))
        return _conv(x.to(dtype), weight, matrix, stride)[..., :out]


def linear(x, weight, bias):
    """``F.linear`` with inner sizes that tensor cores can read.

    Under bfloat16 autocast an inner size that is not a multiple of 8 (the
    6420 behind SincNet's default convolutions) costs cuBLAS its fast kernels,
    three times the time; zeros to the next multiple bring them back. When
    compiled, they are part of the cast that autocast needs anyway.

    Arguments
    ---------
    x : torch.Tensor
        ``[..., in]``.
    weight : torch.Tensor
        ``[out, in]``.
    bias : torch.Tensor
        ``[out]``.

    Returns
    -------
    torch.Tensor
        ``[..., out]``.

    Example
    -------
    >>> x, weight, bias = torch.randn(2, 5), torch.randn(3, 5), torch.zeros(3)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     linear(x, weight, bias).shape
    torch.Size([2, 3])
    """
    pad = -x.shape[-1] % 8
    if pad and torch.is_autocast_enabled(x.device.type):
        x, weight = F.pad(x, (0, pad)), F.pad(weight, (0, pad))
    return F.linear(x, weight, bias)


def finiteness(tensors):
    """Numbers that are finite if, and only if, all of some tensors are.

    Tensors of many numbers are looked at by a kernel that reads as fast as the
    memory gives; of the others it is the largest magnitude.

    Arguments
    ---------
    tensors : list of torch.Tensor
        Gradients, on one device; at least one.

    Returns
    -------
    list of torch.Tensor
        float32 scalars.

    Example
    -------
    >>> values = finiteness([torch.ones(3), torch.tensor([1.0, float("nan")])])
    >>> [bool(value.isfinite()) for value in values]
    [True, False]
    """
    large = [
        x
        for x in tensors
        if x.numel() >= _LARGE and x.is_contiguous() and supports(x)
    ]
    small = [x for x in tensors if all(x is not other for other in large)]
    found = []
    if large:
        flag = torch.zeros((), device=large[0].device)
        for x in large:
            size = x.numel()
            grid = (-(-size // _MARK_BLOCK),)
            _kernels().mark_nonfinite[grid](
                x, flag, size, BLOCK=_MARK_BLOCK, num_warps=8
            )
        found.append(flag)
    if small:
        found += torch._foreach_norm(small, math.inf)
    return [value.float() for value in found]


def _kernels():
    from amsincnet_sb.nnet.fast_cuda import kernels

    return kernels


def _arithmetic(x):
    """Accumulator type and input precision of products."""
    import triton.language as tl

    if x.dtype == torch.float64:
        return tl.float64, "ieee"
    exact = torch.get_float32_matmul_precision() == "highest"
    return tl.float32, "tf32x3" if exact else "tf32"


class _SincShape:
    """Sizes of the sinc layer as a block-Toeplitz product.

    A block is ``g`` consecutive output positions, a multiple of the pool and
    of 8 samples, so that rows are aligned; ``w`` samples determine it.
    """

    def __init__(self, samples, channels, taps, pool):
        unit = math.lcm(pool, 8)
        self.g = unit * max(1, round(24 / unit))
        self.cp = channels + -channels % 16
        self.time = (samples - taps + 1) // pool
        self.blocks = -(-self.time * pool // self.g)
        self.w = -(-(taps + self.g - 1) // self.g) * self.g
        self.samples = (self.blocks - 1) * self.g + self.w


def _tiles(n, k, pool, itemsize):
    """Tile sizes, warps and pipeline stages of a window_gemm; measured."""
    bn = min(128 if itemsize == 2 else 64, max(16, _power_of_2(n)))
    small = pool == 3 or itemsize > 2
    bk = min(32 if small else 64, max(16, _power_of_2(k)))
    wide = bn == 128 or itemsize > 2
    return {
        "BM": 128 if wide else 64,
        "BN": bn,
        "BK": bk,
        "num_warps": 8 if wide else 4,
        "num_stages": 3 if wide else 4,
    }


def _grad_tiles(n, k, itemsize):
    """Tile sizes, warps and pipeline stages of a window_grad."""
    bn = min(128 if itemsize == 2 else 64, max(16, _power_of_2(n)))
    bk = min(128 if n <= 64 else 64, max(16, _power_of_2(k)))
    return {
        "BR": 64 if itemsize == 2 else 32,
        "BK": bk,
        "BN": bn,
        "num_warps": 4,
        "num_stages": 3,
    }


def _norm_tiles(time, most, warps):
    """Tile sizes and warps of what runs over all time of some channels."""
    tb = min(most, _power_of_2(time))
    return {"TB": tb, "CB": 16, "num_warps": warps if tb > 128 else 4}


def _norm_grad_tiles(size, batch):
    """Numbers of a program, its warps, and how many examples it goes over."""
    block = 1024
    splits = max(1, min(batch, 16, 528 // -(-size // block)))
    return block, 4, -(-batch // splits)


def _power_of_2(n):
    return 1 << (n - 1).bit_length()


def _rearrange(
    source, out, sizes, strides, valid=None, into=None, parts=1, step=0
):
    """Write ``out``, of ``sizes``, from a source with the given strides.

    ``valid`` are the last two sizes of the source where ``out`` is padded,
    ``into`` the strides of ``out`` where it is not contiguous in this order;
    ``parts``, ``step`` elements apart, are added up.
    """
    n0, n1, n2 = sizes
    b1, b2 = min(32, _power_of_2(n1)), min(32, _power_of_2(n2))
    grid = (n0 * -(-n1 // b1) * -(-n2 // b2),)
    _kernels().rearrange[grid](
        source,
        out,
        *sizes,
        *(valid or sizes[1:]),
        *strides,
        *(into or (n1 * n2, n2, 1)),
        parts,
        step,
        ACC=_arithmetic(out)[0],
        B1=b1,
        B2=b2,
        num_warps=4,
    )
    return out


def _affine(gain, shift, cp):
    """Gain and shift, each ``[C, T]``, as one ``[2, T, padded C]``."""
    channels, time = gain.shape
    affine = gain.new_empty(2, time, cp)
    for source, out in zip((gain, shift), affine):
        _rearrange(
            source.contiguous(),
            out,
            (1, time, cp),
            (0, 1, time),
            valid=(time, channels),
        )
    return affine


def _affine_gradient(parts, channels):
    """From ``[2, parts, T, padded C]`` back to two of ``[C, T]``."""
    _, count, time, cp = parts.shape
    return [
        _rearrange(
            part,
            parts.new_empty(channels, time),
            (1, channels, time),
            (0, 1, cp),
            parts=count,
            step=time * cp,
        )
        for part in parts
    ]


def _window_gemm(
    a, w, bias, out, code, rows, tiles, slope=None, skip=-1, **shape
):
    acc, precision = _arithmetic(a)
    grid = (-(-rows // tiles["BM"]) * -(-shape["N"] // tiles["BN"]),)
    _kernels().window_gemm[grid](
        a,
        w,
        bias,
        out,
        code,
        slope or 0.0,
        rows,
        BIAS=0 if bias is None else len(bias),
        RELU=slope is not None,
        SKIP=skip,
        ACC=acc,
        PRECISION=precision,
        **shape,
        **tiles,
    )


def _grad_parts(rows, size, n, itemsize):
    """Of a window_grad: tiles, programs a part, parts, and rows of each."""
    tiles = _grad_tiles(n, size, itemsize)
    count = -(-size // tiles["BK"]) * -(-n // tiles["BN"])
    # About two programs a multiprocessor, whatever the shape; a constant, so
    # that the order of summation is the same on every device.
    parts = max(1, min(264 // count, rows // 512))
    each = -(-rows // (parts * tiles["BR"])) * tiles["BR"]
    return tiles, count, -(-rows // each), each


def _window_grad(a, d, rows, **shape):
    """Gradient of a weight matrix in parts to be added up, ``[_, KK, N]``."""
    acc, precision = _arithmetic(a)
    size, n = shape["KK"], shape["N"]
    tiles, count, parts, each = _grad_parts(rows, size, n, a.element_size())
    out = torch.empty(parts, size, n, dtype=_sum_dtype(a), device=a.device)
    _kernels().window_grad[(count, parts)](
        a, d, out, rows, each, ACC=acc, PRECISION=precision, **shape, **tiles
    )
    return out


def _sum_dtype(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _norm_forward(
    z, affine, channels, absolute, eps, slope, floor=0.0, keep=None
):
    """``y``, and mean and standard deviation ``[batch, padded channels]``."""
    batch, rows, cp = z.shape
    time = affine.shape[1]
    y = z.new_empty(batch, time, cp)
    mean = torch.empty(batch, cp, dtype=_sum_dtype(z), device=z.device)
    std = torch.empty_like(mean)
    tiles = _norm_tiles(time, 1024, 4)
    _kernels().norm_forward[(batch * (cp // tiles["CB"]),)](
        z,
        affine[0],
        affine[1],
        z if keep is None else keep,
        y,
        mean,
        std,
        eps,
        _TINY,
        slope,
        floor,
        T=time,
        TZ=rows,
        C=channels,
        CP=cp,
        ABS=absolute,
        LOG=floor > 0,
        MASKED=keep is not None,
        ACC=_arithmetic(z)[0],
        **tiles,
    )
    return y, mean, std


def _norm_backward(
    dy,
    z,
    code,
    affine,
    mean,
    std,
    eps,
    slope,
    pool,
    absolute,
    lead,
    rows,
    floor=0.0,
    keep=None,
):
    """Gradients of the convolution's output, the gain and the shift.

    The first is ``[batch, rows * pool, padded channels]``, of which the first
    ``lead * pool`` rows and those behind the valid ones are zero.
    """
    batch, stored, cp = z.shape
    time = affine.shape[1]
    acc = _arithmetic(z)[0]
    total, dot = torch.empty_like(mean), torch.empty_like(mean)
    # A convolution's gradient has rows of its own behind the last.
    if dy.stride()[1:] != (cp, 1) or dy.stride(0) % cp:
        dy = dy.contiguous()
    common = {"T": time, "TZ": stored, "TY": dy.stride(0) // cp}
    common |= {"CP": cp, "ACC": acc}
    common |= {"ABS": absolute, "LOG": floor > 0, "MASKED": keep is not None}
    kept = z if keep is None else keep
    tiles = _norm_tiles(time, 256, 8)
    _kernels().norm_sums[(batch * (cp // tiles["CB"]),)](
        dy,
        z,
        affine[0],
        affine[1],
        kept,
        mean,
        std,
        total,
        dot,
        eps,
        slope,
        floor,
        **tiles,
        **common,
    )
    d = z.new_empty(batch, rows * pool, cp)
    block, warps, examples = _norm_grad_tiles(rows * cp, batch)
    columns, splits = -(-rows * cp // block), -(-batch // examples)
    parts = torch.empty(2, splits, time, cp, dtype=mean.dtype, device=z.device)
    _kernels().norm_backward[(columns, splits)](
        dy,
        z,
        code,
        affine[0],
        affine[1],
        kept,
        mean,
        std,
        total,
        dot,
        d,
        parts[0],
        parts[1],
        batch,
        examples,
        eps,
        slope,
        floor,
        TD=rows,
        LEAD=lead,
        POOL=pool,
        BLOCK=block,
        num_warps=warps,
        **common,
    )
    return d, parts


@torch.library.custom_op("amsincnet::sinc_layer", mutates_args=())
def _sinc_layer(
    x: torch.Tensor,
    filters: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    keep: torch.Tensor | None,
    pool: int,
    eps: float,
    slope: float,
    floor: float,
    dtype: torch.dtype,
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    """``y`` and what the backward pass needs."""
    batch, samples = x.shape
    channels, taps = filters.shape
    s = _SincShape(samples, channels, taps, pool)
    padded = F.pad(x.to(dtype), (0, s.samples - samples))
    matrix = padded.new_empty(s.w, s.g * s.cp)
    _kernels().toeplitz[(-(-matrix.numel() // 1024),)](
        filters.contiguous(),
        matrix,
        matrix.numel(),
        C=channels,
        K=taps,
        G=s.g,
        CP=s.cp,
        BLOCK=1024,
    )
    n = s.g // pool * s.cp
    z = padded.new_empty(batch, s.blocks * s.g // pool, s.cp)
    code = torch.empty_like(z, dtype=torch.int8)
    _window_gemm(
        padded,
        matrix,
        None,
        z,
        code,
        batch * s.blocks,
        _tiles(n, s.w, pool, z.element_size()),
        J=s.blocks,
        SB=s.samples,
        SM=s.g,
        SQ=0,
        RK=s.w,
        SWR=0,
        SWK=s.g * s.cp,
        SWG=pool * s.cp,
        SWN=1,
        SWQ=s.cp,
        KK=s.w,
        N=n,
        CP=s.cp,
        POOL=pool,
        ABS=True,
    )
    affine = _affine(gain, shift, s.cp)
    y, mean, std = _norm_forward(
        z, affine, channels, True, eps, slope, floor, keep
    )
    return y, z, code, mean, std, padded, matrix, affine


@_sinc_layer.register_fake
def _(x, filters, gain, shift, keep, pool, eps, slope, floor, dtype):
    batch, samples = x.shape
    channels, taps = filters.shape
    s = _SincShape(samples, channels, taps, pool)
    z = x.new_empty(batch, s.blocks * s.g // pool, s.cp, dtype=dtype)
    mean = z.new_empty(batch, s.cp, dtype=_sum_dtype(z))
    return (
        z.new_empty(batch, s.time, s.cp),
        z,
        torch.empty_like(z, dtype=torch.int8),
        mean,
        torch.empty_like(mean),
        z.new_empty(batch, s.samples),
        z.new_empty(s.w, s.g * s.cp),
        gain.new_empty(2, s.time, s.cp),
    )


@torch.library.custom_op("amsincnet::sinc_layer_backward", mutates_args=())
def _sinc_layer_backward(
    dy: torch.Tensor,
    z: torch.Tensor,
    code: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    padded: torch.Tensor,
    matrix: torch.Tensor,
    affine: torch.Tensor,
    keep: torch.Tensor | None,
    samples: int,
    channels: int,
    taps: int,
    pool: int,
    eps: float,
    slope: float,
    floor: float,
    want_input: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the signal, the filters, gain and shift."""
    s = _SincShape(samples, channels, taps, pool)
    batch = z.shape[0]
    d, parts = _norm_backward(
        dy,
        z,
        code,
        affine,
        mean,
        std,
        eps,
        slope,
        pool,
        True,
        0,
        s.blocks * s.g // pool,
        floor,
        keep,
    )
    row = s.g * s.cp
    rows = d.view(batch * s.blocks, row)
    pieces = _rearrange(
        padded,
        padded.new_empty(batch * s.blocks, s.w),
        (batch, s.blocks, s.w),
        (s.samples, s.g, 1),
    )
    if d.is_cuda and d.dtype == torch.bfloat16:
        grad = torch.mm(pieces.t(), rows, out_dtype=torch.float32)
    else:
        grad = pieces.t() @ rows
    # Row w, position p of the Toeplitz matrix is tap w - p of the filter.
    dfilters = _rearrange(
        grad,
        grad.new_empty(channels, taps),
        (1, taps, channels),
        (0, row, 1),
        into=(0, 1, taps),
        parts=s.g,
        step=row + s.cp,
    )
    dx = mean.new_empty(batch, samples if want_input else 0)
    if want_input:
        windows = rows @ matrix.t()
        _kernels().fold[(-(-dx.numel() // 1024),)](
            windows,
            dx,
            dx.numel(),
            T=samples,
            J=s.blocks,
            G=s.g,
            W=s.w,
            ACC=_arithmetic(dx)[0],
            BLOCK=1024,
        )
    return dx, dfilters, *_affine_gradient(parts, channels)


@_sinc_layer_backward.register_fake
def _(
    dy,
    z,
    code,
    mean,
    std,
    padded,
    matrix,
    affine,
    keep,
    samples,
    channels,
    taps,
    pool,
    eps,
    slope,
    floor,
    want_input,
):
    return (
        mean.new_empty(z.shape[0], samples if want_input else 0),
        mean.new_empty(channels, taps),
        mean.new_empty(channels, affine.shape[1]),
        mean.new_empty(channels, affine.shape[1]),
    )


def _sinc_context(ctx, inputs, output):
    x, filters, _, _, keep, pool, eps, slope, floor, _ = inputs
    ctx.save_for_backward(*output[1:], keep)
    ctx.shape = (x.shape[1], *filters.shape, pool, eps, slope, floor)
    ctx.set_materialize_grads(False)


def _sinc_gradient(ctx, dy, *_):
    if dy is None:
        return (None,) * 10
    want_input = ctx.needs_input_grad[0]
    dx, *grads = _sinc_layer_backward(
        dy, *ctx.saved_tensors, *ctx.shape, want_input
    )
    return (dx if want_input else None, *grads, *[None] * 6)


_sinc_layer.register_autograd(_sinc_gradient, setup_context=_sinc_context)


@torch.library.custom_op("amsincnet::conv_layer", mutates_args=())
def _conv_layer(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    pool: int,
    eps: float,
    slope: float,
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    """``y`` and what the backward pass needs."""
    batch, rows, cin = x.shape
    channels, channels_in, taps = weight.shape
    cp = channels + -channels % 16
    time = (rows - taps + 1) // pool
    z = x.new_empty(batch, time, cp)
    code = torch.empty_like(z, dtype=torch.int8)
    packed = _rearrange(
        weight.contiguous(),
        x.new_empty(taps, cin, cp),
        (taps, cin, cp),
        (1, taps, channels_in * taps),
        valid=(channels_in, channels),
    )
    _window_gemm(
        x,
        packed,
        bias,
        z,
        code,
        batch * time,
        _tiles(cp, taps * cin, pool, z.element_size()),
        J=time,
        SB=rows * cin,
        SM=pool * cin,
        SQ=cin,
        RK=taps * cin,
        SWR=0,
        SWK=cp,
        SWG=0,
        SWN=1,
        SWQ=0,
        KK=taps * cin,
        N=cp,
        CP=cp,
        POOL=pool,
        ABS=False,
    )
    affine = _affine(gain, shift, cp)
    y, mean, std = _norm_forward(z, affine, channels, False, eps, slope)
    return y, z, code, mean, std, packed, affine


@_conv_layer.register_fake
def _(x, weight, bias, gain, shift, pool, eps, slope):
    batch, rows, cin = x.shape
    channels, _, taps = weight.shape
    cp = channels + -channels % 16
    z = x.new_empty(batch, (rows - taps + 1) // pool, cp)
    mean = z.new_empty(batch, cp, dtype=_sum_dtype(z))
    return (
        torch.empty_like(z),
        z,
        torch.empty_like(z, dtype=torch.int8),
        mean,
        torch.empty_like(mean),
        x.new_empty(taps, cin, cp),
        gain.new_empty(2, z.shape[1], cp),
    )


@torch.library.custom_op("amsincnet::conv_layer_backward", mutates_args=())
def _conv_layer_backward(
    dy: torch.Tensor,
    z: torch.Tensor,
    code: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    packed: torch.Tensor,
    affine: torch.Tensor,
    x: torch.Tensor,
    channels: int,
    channels_in: int,
    pool: int,
    eps: float,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the input, the weight, gain and shift."""
    batch, rows, cin = x.shape
    taps, _, cp = packed.shape
    time = z.shape[1]
    # Rows of zeros around the gradient, so that the gradient of the input is
    # a convolution too, without conditions.
    lead = -(-(taps - 1) // pool)
    stored = lead + -(-rows // pool)
    d, parts = _norm_backward(
        dy,
        z,
        code,
        affine,
        mean,
        std,
        eps,
        slope,
        pool,
        False,
        lead,
        stored,
    )
    grad = _window_grad(
        x,
        d,
        batch * time * pool,
        J=time * pool,
        SB=rows * cin,
        SM=cin,
        DB=stored * pool * cp,
        DM=cp,
        D0=lead * pool * cp,
        KK=taps * cin,
        N=cp,
    ).sum(0)
    dweight = _rearrange(
        grad,
        grad.new_empty(channels, channels_in, taps),
        (taps, channels_in, channels),
        (cin * cp, cp, 1),
        into=(1, taps, channels_in * taps),
    )
    dx = torch.empty_like(x)
    _window_gemm(
        d[:, lead * pool - (taps - 1) :],
        # From the last tap back, in and out exchanged.
        packed[-1],
        None,
        dx,
        code,
        batch * rows,
        _tiles(cin, taps * cp, 1, x.element_size()),
        J=rows,
        SB=stored * pool * cp,
        SM=cp,
        SQ=0,
        RK=cp,
        SWR=-cin * cp,
        SWK=1,
        SWG=0,
        SWN=cp,
        SWQ=0,
        KK=taps * cp,
        N=cin,
        CP=cin,
        POOL=1,
        ABS=False,
    )
    return dx, dweight, *_affine_gradient(parts, channels)


@_conv_layer_backward.register_fake
def _(
    dy,
    z,
    code,
    mean,
    std,
    packed,
    affine,
    x,
    channels,
    channels_in,
    pool,
    eps,
    slope,
):
    return (
        torch.empty_like(x),
        mean.new_empty(channels, channels_in, packed.shape[0]),
        mean.new_empty(channels, affine.shape[1]),
        mean.new_empty(channels, affine.shape[1]),
    )


def _conv_context(ctx, inputs, output):
    x, weight, _, _, _, pool, eps, slope = inputs
    ctx.save_for_backward(*output[1:], x)
    ctx.shape = (*weight.shape[:2], pool, eps, slope)
    ctx.set_materialize_grads(False)


def _conv_gradient(ctx, dy, *_):
    if dy is None:
        return (None,) * 8
    dx, dweight, dgain, dshift = _conv_layer_backward(
        dy, *ctx.saved_tensors, *ctx.shape
    )
    # A bias is constant over time, so the normalisation takes it out again:
    # its gradient is zero, exactly (the plain path's is rounding noise).
    dbias = dgain.new_zeros(dgain.shape[0])
    return dx, dweight, dbias, dgain, dshift, None, None, None


_conv_layer.register_autograd(_conv_gradient, setup_context=_conv_context)


@torch.library.custom_op("amsincnet::conv", mutates_args=())
def _conv(
    x: torch.Tensor, weight: torch.Tensor, matrix: torch.Tensor, stride: int
) -> torch.Tensor:
    """``[batch, time, in]`` times a matrix ``[taps * in, out]``.

    The matrix is made of ``weight``, ``[out, in, taps]``, which gets the
    gradient, in its own precision.
    """
    x = x.contiguous()
    batch, rows, cin = x.shape
    cout, _, taps = weight.shape
    time = (rows - taps) // stride + 1
    y = x.new_empty(batch, time, cout)
    _plain_gemm(x, matrix, y, J=time, SB=rows * cin, SM=stride * cin)
    return y


@_conv.register_fake
def _(x, weight, matrix, stride):
    time = (x.shape[1] - weight.shape[2]) // stride + 1
    return x.new_empty(x.shape[0], time, weight.shape[0])


def _plain_gemm(a, matrix, out, bias=None, **rows):
    """Overlapping rows of ``a`` times a ``[k, n]`` matrix."""
    size, n = matrix.shape
    _window_gemm(
        a,
        matrix.contiguous(),
        bias,
        out,
        out,  # nothing is pooled, so no code is written
        out.numel() // n,
        _tiles(n, size, 1, a.element_size()),
        SQ=0,
        RK=size,
        SWR=0,
        SWK=n,
        SWG=0,
        SWN=1,
        SWQ=0,
        KK=size,
        N=n,
        CP=n,
        POOL=1,
        ABS=False,
        **rows,
    )


@torch.library.custom_op("amsincnet::conv_backward", mutates_args=())
def _conv_backward(
    d: torch.Tensor,
    x: torch.Tensor,
    matrix: torch.Tensor,
    stride: int,
    taps: int,
    before: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the input, in whole steps, and of the forward matrix.

    The latter in parts, which the compiler adds up where it writes them.
    ``d`` is the output's gradient with zeros around it: as many ``before`` as
    the input's gradient looks back.
    """
    x, d = x.contiguous(), d.contiguous()
    batch, rows, cin = x.shape
    padded, cout = d.shape[1:]
    time = (rows - taps) // stride + 1
    grad = _window_grad(
        x,
        d,
        batch * time,
        J=time,
        SB=rows * cin,
        SM=stride * cin,
        DB=padded * cout,
        DM=cout,
        D0=before * cout,
        KK=taps * cin,
        N=cout,
    )
    blocks = padded - before
    dx = x.new_empty(batch, blocks * stride, cin)
    _plain_gemm(d, matrix, dx, J=blocks, SB=padded * cout, SM=cout)
    return dx, grad


@_conv_backward.register_fake
def _(d, x, matrix, stride, taps, before):
    batch, rows, cin = x.shape
    blocks = d.shape[1] - before
    time = (rows - taps) // stride + 1
    size, n = taps * cin, d.shape[2]
    _, _, parts, _ = _grad_parts(batch * time, size, n, x.element_size())
    return (
        x.new_empty(batch, blocks * stride, cin),
        x.new_empty(parts, size, n, dtype=_sum_dtype(x)),
    )


def _plain_context(ctx, inputs, output):
    x, weight, _, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _plain_gradient(ctx, dy):
    x, weight = ctx.saved_tensors
    stride, (cout, cin, taps) = ctx.stride, weight.shape
    rows, time = x.shape[1], dy.shape[1]
    # ``stride`` positions of the input at a time: position ``r`` of block
    # ``u`` is reached by tap ``r + stride * j`` of output ``u - j``.
    reach = -(-taps // stride)
    blocks = -(-rows // stride)
    d = F.pad(dy, (0, 0, reach - 1, blocks - time))
    matrix = F.pad(weight.to(x.dtype), (0, reach * stride - taps))
    matrix = matrix.view(cout, cin, reach, stride).flip(2)
    matrix = matrix.permute(2, 0, 3, 1).reshape(reach * cout, stride * cin)
    dx, grad = _conv_backward(d, x, matrix, stride, taps, reach - 1)
    grad = grad.sum(0).view(taps, cin, cout)
    dweight = grad.permute(2, 1, 0).to(weight.dtype)
    return dx[:, :rows], dweight, None, None


_conv.register_autograd(_plain_gradient, setup_context=_plain_context)

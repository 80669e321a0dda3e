"""Arrays of others, and arrays for others.

DLPack both ways (https://dmlc.github.io/dlpack/latest), through the PyCapsule functions of Python's C
interface; NumPy's array interface and the buffer protocol where an object has no DLPack.

Memory of a GPU is copied to the host by its owner: `x.cpu()` (PyTorch), `x.get()` (CuPy), or
`x.__dlpack__(dl_device=(1, 0))` (JAX and others). Nothing here calls a GPU.
"""
import array as _array_module
import ctypes
import struct
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, py_object

from . import _declarations as c
from ._library import check_status, library

# name: bytes, DLPack's code, letter of `struct`, NumPy's type, fb_dtype
_dtypes = {
    "f32": (4, 2, "f", "<f4", c.FB_F32),
    "bf16": (2, 4, None, None, c.FB_BF16),
    "f16": (2, 2, "e", "<f2", c.FB_F16),
    "f64": (8, 2, "d", "<f8", None),
    "bool": (1, 6, "?", "|b1", None),
    "i32": (4, 0, "i", "<i4", None),
    "i64": (8, 0, "q", "<i8", None),
}
_by_dlpack = {(code, 8 * size): name for name, (size, code, *_) in _dtypes.items()}
_by_numpy = {kind: name for name, (_, _, _, kind, _) in _dtypes.items() if kind}
_by_letter = {letter: name for name, (_, _, letter, _, _) in _dtypes.items() if letter}
_aliases = {
    "float32": "f32", "bfloat16": "bf16", "float16": "f16", "half": "f16", "float64": "f64",
    "int32": "i32", "int64": "i64",
}  # fmt: skip


def dtype_name(dtype):
    """ "f32", "bf16", ... of a name in any of the usual spellings."""
    name = str(dtype).rpartition(".")[2]
    name = _aliases.get(name, name)
    if name not in _dtypes:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(_dtypes)}")
    return name


def fb_dtype(name, what):
    """The fb_dtype of a tensor's type."""
    number = _dtypes[name][4]
    if number is None:
        raise TypeError(f"{what} is {name}, expected f32, bf16 or f16: convert it first")
    return number


# --- DLPack's structs -----------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    ]


_CPU, _HOST_OF_CUDA, _MANAGED_CUDA = 1, 3, 13
_api = ctypes.pythonapi
_api.PyCapsule_GetPointer.restype, _api.PyCapsule_GetPointer.argtypes = c_void_p, [py_object, c_char_p]
_api.PyCapsule_IsValid.restype, _api.PyCapsule_IsValid.argtypes = ctypes.c_int, [py_object, c_char_p]
_api.PyCapsule_New.restype, _api.PyCapsule_New.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
# The destructor is called with an object that is being destroyed: it must not become a py_object.
_valid_at = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", _api))
_pointer_at = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", _api))

_given = {}  # address of a struct that a consumer holds: (struct, shape, strides, its array)


@ctypes.CFUNCTYPE(None, c_void_p)
def _deleter(address):
    _given.pop(address, None)


@ctypes.PYFUNCTYPE(None, c_void_p)
def _destructor(capsule):
    """Of a capsule that nobody consumed: a consumer gives it another name."""
    for name in (b"dltensor", b"dltensor_versioned"):
        if _valid_at(capsule, name):
            _given.pop(_pointer_at(capsule, name), None)


# --- Array ----------------------------------------------------------------------------------------


def _dense_strides(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


def _count(shape):
    count = 1
    for size in shape:
        count *= size
    return count


class Array:
    """A tensor in this process's memory: what functions return, and what a port is given.

    torch.from_dlpack(x), numpy.asarray(x), jax.numpy.from_dlpack(x), memoryview (x.memoryview()) and
    x.tolist() read it. `dtype` is "f32", "bf16", "f16", "f64", "bool", "i32" or "i64"; `shape`, and
    `strides` in elements.
    """

    __slots__ = ("address", "dtype", "shape", "strides", "_owner", "__weakref__")

    def __init__(self, address, dtype, shape, strides=None, owner=None):
        self.address, self.dtype, self.shape = address, dtype, tuple(shape)
        self.strides = _dense_strides(self.shape) if strides is None else tuple(strides)
        self._owner = owner

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return _count(self.shape)

    @property
    def itemsize(self):
        return _dtypes[self.dtype][0]

    @property
    def is_dense(self):
        return all(size == 1 or a == b for size, a, b in zip(self.shape, self.strides, _dense_strides(self.shape)))

    def __repr__(self):
        return f"flashblock.Array(shape={self.shape}, dtype={self.dtype!r})"

    def __len__(self):
        if not self.shape:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, index):
        """Whole numbers and slices. A whole index gives a number, another one a view."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) > self.ndim:
            raise IndexError(f"{len(index)} indices for {self.ndim} dimensions")
        offset, shape, strides = 0, [], []
        for axis, (size, stride) in enumerate(zip(self.shape, self.strides)):
            at = index[axis] if axis < len(index) else slice(None)
            if isinstance(at, slice):
                begin, _, step = at.indices(size)
                offset += begin * stride
                shape.append(len(range(*at.indices(size))))
                strides.append(stride * step)
                continue
            at = at.__index__()
            if not -size <= at < size:
                raise IndexError(f"index {at} of an axis of {size}")
            offset += (at % size) * stride
        view = Array(self.address + offset * self.itemsize, self.dtype, shape, strides, self)
        return view if shape else view.tolist()

    def transpose(self, axes):
        """A view with the axes in another order."""
        return Array(self.address, self.dtype, [self.shape[a] for a in axes], [self.strides[a] for a in axes], self)

    def with_batch(self):
        """A view with a first axis of 1."""
        return Array(self.address, self.dtype, (1, *self.shape), (_count(self.shape), *self.strides), self)

    def copy(self):
        """The same, dense, in memory of its own."""
        made = empty(self.shape, self.dtype)
        _copy(self, made)
        return made

    def dense(self):
        return self if self.is_dense else self.copy()

    def astype(self, dtype):
        """Rounded to another type: f32, bf16, f16."""
        dtype = dtype_name(dtype)
        if dtype == self.dtype:
            return self
        source, count = self.dense(), _count(self.shape)
        if source.dtype != "f32":
            widened = empty(self.shape, "f32")
            check_status(library().fb_to_f32(fb_dtype(self.dtype, "the array"), source.address, widened.address, count))
            source = widened
        if dtype == "f32":
            return source
        made = empty(self.shape, dtype)
        check_status(library().fb_from_f32(fb_dtype(dtype, "dtype"), source.address, made.address, count))
        return made

    def memoryview(self):
        """The memory, of a dense array; bf16 and f16 as whole numbers of 16 bits."""
        if not self.is_dense:
            raise BufferError("the array is not dense: copy() it first")
        size = _count(self.shape) * self.itemsize
        memory = (ctypes.c_char * size).from_address(self.address)
        memory._flashblock_owner = self  # ctypes arrays take attributes; the view keeps them alive
        view = memoryview(memory).cast("B")
        letter = _dtypes[self.dtype][2] if self.itemsize != 2 else "H"
        return view.cast(letter, self.shape) if size and self.shape else view

    def __buffer__(self, flags):  # Python 3.12 and later
        if self.itemsize == 2:
            raise BufferError(f"Python's buffers have no {self.dtype}: x.memoryview() has its bits")
        return self.memoryview()

    def tolist(self):
        """Nested lists of numbers."""
        if self.dtype == "bf16":
            return self.astype("f32").tolist()
        if not self.shape:
            letter = _dtypes[self.dtype][2]
            return struct.unpack(letter, ctypes.string_at(self.address, self.itemsize))[0]
        if _count(self.shape) == 0:
            return _nest([], self.shape)
        dense = self.dense()
        letter = _dtypes[self.dtype][2]
        content = ctypes.string_at(dense.address, _count(self.shape) * self.itemsize)
        return _nest(struct.unpack(f"{_count(self.shape)}{letter}", content), self.shape)

    @property
    def __array_interface__(self):
        kind = _dtypes[self.dtype][3]
        if kind is None:
            raise TypeError("NumPy has no bfloat16: use x.astype('f32')")
        strides = tuple(stride * self.itemsize for stride in self.strides)
        return {"version": 3, "shape": self.shape, "typestr": kind, "data": (self.address, False), "strides": strides}

    def __dlpack_device__(self):
        return (_CPU, 0)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is not None and tuple(dl_device) != (_CPU, 0):
            raise BufferError("the array is in host memory")
        source = self.copy() if copy else self
        versioned = max_version is not None and tuple(max_version) >= (1, 0)
        size, code = _dtypes[source.dtype][:2]
        ndim = source.ndim
        shape, strides = (c_int64 * ndim)(*source.shape), (c_int64 * ndim)(*source.strides)
        managed = _Versioned(1, 0) if versioned else _Managed()
        managed.deleter = ctypes.cast(_deleter, c_void_p)
        managed.tensor = _Tensor(
            source.address, _CPU, 0, ndim, code, 8 * size, 1, ctypes.cast(shape, POINTER(c_int64)),
            ctypes.cast(strides, POINTER(c_int64)), 0,
        )  # fmt: skip
        address = ctypes.addressof(managed)
        _given[address] = (managed, shape, strides, source)
        name = b"dltensor_versioned" if versioned else b"dltensor"
        return _api.PyCapsule_New(address, name, ctypes.cast(_destructor, c_void_p))


def _nest(flat, shape):
    if len(shape) == 1:
        return list(flat)
    step = _count(shape[1:])
    return [_nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _copy(source, target):
    """Into a dense array of the same shape and type: run by run of what is contiguous."""
    if source.size == 0:
        return
    axes = [(size, stride) for size, stride in zip(source.shape, source.strides) if size > 1]
    run = 1
    while axes and axes[-1][1] == run:
        run *= axes.pop()[0]
    if axes and run == 1:
        _copy_elements(source, target)
        return
    offsets = [0]
    for size, stride in axes:
        offsets = [offset + i * stride for offset in offsets for i in range(size)]
    length, to = run * source.itemsize, target.address
    for offset in offsets:
        ctypes.memmove(to, source.address + offset * source.itemsize, length)
        to += length


def _copy_elements(source, target):
    """The same where the last axis is not contiguous: rows of single elements."""
    size, letter = source.itemsize, {1: "b", 2: "h", 4: "i", 8: "q"}[source.itemsize]
    made = memoryview((ctypes.c_char * (source.size * size)).from_address(target.address)).cast("B").cast(letter)
    count, stride = source.shape[-1], source.strides[-1]
    offsets = [0]
    for length, step in zip(source.shape[:-1], source.strides[:-1]):
        offsets = [offset + i * step for offset in offsets for i in range(length)]
    for row, offset in enumerate(offsets):
        lowest = source.address + (offset + min(0, (count - 1) * stride)) * size
        span = abs(stride) * (count - 1) + 1
        memory = memoryview((ctypes.c_char * (span * size)).from_address(lowest)).cast("B").cast(letter)
        values = _array_module.array(letter, [memory[0]] * count) if stride == 0 else memory[::stride]
        made[row * count : (row + 1) * count] = values


def empty(shape, dtype):
    """A dense array of new memory, all zeros, aligned to 64 bytes."""
    shape = tuple(shape)
    size = _count(shape) * _dtypes[dtype][0]
    memory = (ctypes.c_char * (size + 64))()
    address = ctypes.addressof(memory)
    return Array(address + -address % 64, dtype, shape, None, memory)


def array(values, dtype="f32", shape=None):
    """An Array of nested lists of numbers, rounded to `dtype`; or of a buffer of raw elements, such as bytes or
    whole numbers of 16 bits that are bf16, where `shape` is given."""
    dtype = dtype_name(dtype)
    if shape is not None:
        content = memoryview(values).cast("B") if not isinstance(values, (list, tuple)) else None
        if content is not None:
            made = empty(shape, dtype)
            if content.nbytes != _count(made.shape) * made.itemsize:
                raise ValueError(f"{content.nbytes} bytes are no {made.shape} of {dtype}")
            ctypes.memmove(made.address, bytes(content), content.nbytes)
            return made
    found, flat = [], values
    while isinstance(flat, (list, tuple)):
        found.append(len(flat))
        flat = flat[0] if flat else None
    flat = values if isinstance(values, (list, tuple)) else [values]
    for depth, size in enumerate(found[1:]):
        if any(len(part) != size for part in flat):
            raise ValueError(f"the lists of axis {depth + 1} have different lengths")
        flat = [item for part in flat for item in part]
    shape = tuple(found) if shape is None else tuple(shape)
    if len(flat) != _count(shape):
        raise ValueError(f"{len(flat)} numbers are no {shape}")
    if dtype in ("bf16", "f16"):
        return array(values, "f32", shape).astype(dtype)
    made = empty(shape, dtype)
    ctypes.memmove(made.address, struct.pack(f"{len(flat)}{_dtypes[dtype][2]}", *flat), len(flat) * made.itemsize)
    return made


# --- arrays of others -----------------------------------------------------------------------------


def _to_host(x, what):
    """An array of a GPU, copied by its owner: a capsule, or an array in this process's memory."""
    if hasattr(x, "cpu"):
        return x.cpu()
    if hasattr(x, "get") and type(x).__module__.split(".")[0] == "cupy":
        return x.get()
    try:
        return x.__dlpack__(dl_device=(_CPU, 0))
    except (TypeError, BufferError):
        if hasattr(x, "__array__"):
            return x.__array__()
    raise TypeError(f"{what} is on another device, and {type(x).__name__} has no way to copy it to the host")


def _of_capsule(capsule, what):
    """The capsule keeps the name that it has, so that its own destructor frees the tensor."""
    if _api.PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(_api.PyCapsule_GetPointer(capsule, b"dltensor_versioned"))
        if managed.major > 1:
            raise TypeError(f"{what} is of DLPack {managed.major}.{managed.minor}, which came after this package")
    else:
        managed = _Managed.from_address(_api.PyCapsule_GetPointer(capsule, b"dltensor"))
    tensor = managed.tensor
    if tensor.device_type not in (_CPU, _HOST_OF_CUDA, _MANAGED_CUDA):
        raise TypeError(f"{what} is on a device of DLPack's type {tensor.device_type}: copy it to the host first")
    dtype = _by_dlpack.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise TypeError(
            f"{what} has DLPack's type {tensor.code} of {tensor.bits} bits x {tensor.lanes}, expected f32, bf16 or f16"
        )
    shape = [tensor.shape[i] for i in range(tensor.ndim)]
    strides = [tensor.strides[i] for i in range(tensor.ndim)] if tensor.strides else None
    return Array((tensor.data or 0) + tensor.byte_offset, dtype, shape, strides, capsule)


def _export(x):
    try:
        return x.__dlpack__(max_version=(1, 0))
    except TypeError:
        return x.__dlpack__()


def _of_dlpack(x, what):
    if hasattr(x, "detach"):  # PyTorch refuses tensors that have a gradient
        x = x.detach()
    # torch.Tensor has conjugated and negated views, which are resolved here
    for name in ("resolve_conj", "resolve_neg"):
        x = getattr(x, name)() if hasattr(x, name) else x
    device = int(x.__dlpack_device__()[0]) if hasattr(x, "__dlpack_device__") else _CPU
    if device not in (_CPU, _HOST_OF_CUDA):
        copied = _to_host(x, what)
        return _of_capsule(copied, what) if type(copied).__name__ == "PyCapsule" else as_array(copied, what)
    return _of_capsule(_export(x), what)


def _of_interface(x, what):
    interface = x.__array_interface__
    kind, size = interface["typestr"], int(interface["typestr"][2:])
    dtype = _by_numpy.get(kind)
    if str(getattr(x, "dtype", "")) == "bfloat16":
        dtype = "bf16"
    if dtype is None:
        raise TypeError(f"{what} has the type {kind}, expected f32, bf16 or f16")
    strides = interface.get("strides")
    strides = None if strides is None else [stride // size for stride in strides]
    return Array(interface["data"][0], dtype, interface["shape"], strides, x)


def _of_buffer(x, what):
    view = memoryview(x)
    dtype = _by_letter.get(view.format.lstrip("@=<"))
    if dtype is None:
        raise TypeError(f"{what} is a buffer of '{view.format}', expected f32 ('f') or f16 ('e')")
    if not view.c_contiguous:
        raise TypeError(f"{what} is a buffer that is not contiguous")
    if view.readonly:
        return array(view, dtype, view.shape)
    memory = (ctypes.c_char * view.nbytes).from_buffer(view)
    return Array(ctypes.addressof(memory), dtype, view.shape, None, memory)


def as_array(x, what="the array"):
    """An Array over the memory of `x` where it is in this process's memory, else over a copy."""
    if isinstance(x, Array):
        return x
    if hasattr(x, "__dlpack__"):
        try:
            return _of_dlpack(x, what)
        except (BufferError, RuntimeError):  # NumPy: read-only arrays, types that DLPack lacks
            if not hasattr(x, "__array_interface__"):
                raise
    if hasattr(x, "__array_interface__"):
        return _of_interface(x, what)
    if isinstance(x, (list, tuple)):
        return array(x)
    try:
        return _of_buffer(x, what)
    except TypeError as error:
        if "buffer of" in str(error) or "contiguous" in str(error):
            raise
    raise TypeError(f"{what} is of type {type(x).__name__}, expected an array: DLPack, the buffer protocol, or lists")

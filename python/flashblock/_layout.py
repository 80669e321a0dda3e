"""Named layouts: which axis of a tensor is the batch (B), the tokens (T), the heads (H), the values (D)."""
import math

from ._arrays import as_array, empty, fb_dtype


def check_layout(layout, letters, what):
    """The layout is made of these letters; a B may be there or not."""
    text = str(layout)
    if sorted(text.replace("B", "")) != sorted(letters) or text.count("B") > 1:
        examples = " or ".join(f'"{example}"' for example in _examples[letters])
        raise ValueError(f"{what} is {layout!r}, expected an order of {', '.join('B' + letters)}, such as {examples}")
    return text


_examples = {"THD": ("THD", "BTHD", "BHTD"), "TH": ("HT", "BHT", "BTH")}


class Tensor:
    """An array with the axes [B, T, H, D], or [B, T, H] of an LSE, whatever order the memory has."""

    def __init__(self, x, layout, what, letters="THD"):
        array = as_array(x, what)
        if array.ndim != len(layout):
            raise ValueError(f"{what} has {array.ndim} dimensions, {array.shape}, but its layout is {layout!r}")
        if "B" not in layout:
            array, layout = array.with_batch(), "B" + layout
        order = [layout.index(letter) for letter in "B" + letters]
        self.array, self.what = array.transpose(order), what

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return fb_dtype(self.array.dtype, self.what)

    def rows(self):
        """The same with contiguous values (the last axis)."""
        array = self.array
        if array.shape[-1] > 1 and array.strides[-1] != 1:
            array = array.copy()
        return array

    def floats(self):
        """Dense, in float32."""
        fb_dtype(self.array.dtype, self.what)
        return self.array.dense().astype("f32")

    def batch(self, index):
        """[T, H, D] or [T, H] of one sequence."""
        return self.array[index]


def result(shape, layout, dtype="f32"):
    """A new array of the layout, and its view [B, T, H, D] or [B, T, H]. `shape` is the view's."""
    letters = "BTHD"[: len(shape)]
    sizes = dict(zip(letters, shape))
    array = empty([sizes[letter] for letter in layout], dtype)
    full = array if "B" in layout else array.with_batch()
    order = layout if "B" in layout else "B" + layout
    return array, full.transpose([order.index(letter) for letter in letters])


def lse_layout_of(layout, given):
    """The layout of an LSE that is returned: that of the outputs without D, unless another is named."""
    return check_layout(given, "TH", "lse_layout") if given is not None else layout.replace("D", "")


def check_base(base):
    """The factor that makes a natural logarithm of an LSE in this base."""
    if str(base) == "e":
        return 1.0
    if str(base) == "2":
        return math.log(2.0)
    raise ValueError(f'lse_base is {base!r}, expected "e" or "2"')


def placed(array, layout):
    """[B, T, H, D] or [B, T, H] in the caller's layout, dense."""
    letters = "BTHD"[: array.ndim]
    if "B" not in layout:
        array, letters = array[0], letters[1:]
    return array.transpose([letters.index(letter) for letter in layout]).dense()


def scaled(array, factor):
    """A float32 or float64 array times a factor, rounded once."""
    if factor == 1.0:
        return array
    made, letter = array.copy(), "f" if array.dtype == "f32" else "d"
    view = made.memoryview().cast("B").cast(letter) if made.size else []
    for i, value in enumerate(view):
        view[i] = value * factor
    return made

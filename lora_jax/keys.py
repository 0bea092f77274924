"""Keys of a tree as parts of a path: "/" inside a key (nn.WeightNorm calls a parameter "Dense_0/kernel/scale") is no step of the path.

In paths such a key is written as addresses of the web have it, "/" as "%2F" and "%" as "%25". Patterns and messages have it plain.
"""


def escaped(key: str) -> str:
    """A key as a part of a path.

    >>> escaped("kernel"), escaped("Dense_0/kernel/scale")
    ('kernel', 'Dense_0%2Fkernel%2Fscale')
    """
    return key.replace("%", "%25").replace("/", "%2F")


def plain(path: str) -> str:
    """The inverse of `escaped`; of a whole path, how it is called in patterns and messages.

    >>> plain("WeightNorm_0/Dense_0%2Fkernel%2Fscale")
    'WeightNorm_0/Dense_0/kernel/scale'
    """
    return path.replace("%2F", "/").replace("%25", "%")

"""Are the fused draws of a CPU Threefry's, and JAX's own bit by bit?"""

import jax
import jax.numpy as jnp
import pytest

from experiments.common import draws

KNOWN = {  # key, counter, words: the known-answer tests of Random123 for threefry2x32, 20 rounds
    "zeros": ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    "ones": ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    "pi": ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
}
# What JAX drew before its rule was replaced.
BITS = [[4070199207, 4202968722, 1427181096], [2012915765, 2447653815, 710830403]]
SPLIT = [[507451445, 1853169794], [1948878966, 4237131848]]
SUM = 3564870876


@pytest.mark.parametrize("case", KNOWN)
def test_threefry_gives_the_known_answers(case):
    key, counter, words = KNOWN[case]
    assert tuple(map(int, draws.threefry(*map(jnp.uint32, (*key, *counter))))) == words


def test_programs_draw_the_bits_of_jax_without_a_loop():
    draws.fuse_on_cpu()

    def drawn():
        return (
            jax.random.bits(jax.random.key(0), (2, 3)),
            jax.random.key_data(jax.random.split(jax.random.key(1), 2)),
            jax.random.bits(jax.random.key(5), (1001,)).sum(),
        )

    program = jax.jit(drawn)
    assert [got.tolist() for got in program()] == [BITS, SPLIT, SUM]
    assert "stablehlo.while" not in program.lower().as_text()

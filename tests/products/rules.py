"""The side path written by hand, layer by layer, for the classes that the two models have: what the engine's products are compared with."""

from collections.abc import Callable

import flax.linen as nn

from lora_jax import LoRA, lowrank


def by_rules(model: LoRA) -> Callable:
    """(params, *args) -> outputs, every Dense with an adapter beside its kernel having its side path added behind it."""

    def run(params, *args):
        def interceptor(next_fun, args, kwargs, context):
            y, module = next_fun(*args, **kwargs), context.module
            if not isinstance(module, nn.Dense) or not module.scope.has_variable("params", "lora_a"):
                return y
            a, b, scale = (module.scope.get_variable("params", f"lora_{name}") for name in ("a", "b", "scale"))
            return y + lowrank.side_path(args[0].astype(y.dtype), a, b, scale)

        with nn.intercept_methods(interceptor):
            return model.base_module.apply({"params": params}, *args)

    return run

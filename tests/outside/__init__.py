"""Models of other packages. Each file skips where its package is absent; none of them is installed by an extra of ours.

An environment that runs them all but recurrentgemma, on Python 3.13 and JAX 0.12:

    pip install -e ".[test]" gemma==4.0.1 google-tunix==0.1.7 equinox==0.13.8 dm-haiku==0.0.17 transformers==4.57.6 diffusers==0.35.2
    pip install --no-deps maxtext==0.2.5 && pip install pathwaysutils aqtp tokamax drjax tiktoken
    pip install --no-deps --upgrade protobuf  # xmanager, of gemma's kauldron, asks for an older one than sentencepiece can use

and on Python 3.11 and JAX 0.10.2, where gemma and maxtext (Python >= 3.12) do not install:

    pip install -e ".[test]" google-tunix equinox dm-haiku transformers==4.57.6 diffusers==0.35.2 "typeguard<3" -c lowest.txt
    pip install --no-deps recurrentgemma==1.0.1

where lowest.txt holds jax==0.10.2, jaxlib==0.10.2 and flax==0.12.8. maxtext asks for transformers >= 5.8, which has no Flax models any more, and
reads none of it here. recurrentgemma's typeguard 2 does not import on Python 3.13.
"""

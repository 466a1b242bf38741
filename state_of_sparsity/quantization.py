"""Quantization of sparse models by Keras 3, which keeps every zero."""

from state_of_sparsity.engines import engine_of


def quantize(model, mode: str | None = None, config=None, filters=None) -> None:
    """Quantizes a stripped model in place, as `keras.Model.quantize`; zeros stay zeros.

    By `"int8"`, `"int4"` and `"awq"`, Keras keeps them itself, and so does what is
    called here. By `"gptq"`, it adds the corrections for what is rounded to the zeros
    as well; here they go to the weights that are kept, alone (see `masked_gptq`). What
    comes out is a model of Keras like any other, which Keras saves and loads. Layers in
    none of the blocks that GPTQ and AWQ go through stay as they are.

    Args:
      model: a built model of Keras 3 without sparse layers, such as `sos.strip` gives.
      mode: as of `keras.Model.quantize`.
      config: likewise; GPTQ and AWQ need one, with token ids in its `dataset`.
      filters: likewise.

    Raises:
      TypeError: for a model that is not one of Keras 3.
      ValueError: for sparse layers, or a Hessian that is not positive definite.
    """
    engine_of(model).quantize(model, mode, config, filters)

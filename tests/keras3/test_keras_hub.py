"""Models of KerasHub, small ones: pruned in one shot, trained, stripped and written."""

import warnings

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from tests.flavour import BACKEND

hub = pytest.importorskip("keras_hub").models
pytestmark = pytest.mark.slow

EXAMPLES, LENGTH, WORDS, CLASSES = 4, 8, 32, 3
SMALL = {"num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
WORDED = SMALL | {"vocabulary_size": WORDS}
GROUPED = WORDED | {"num_query_heads": 2, "num_key_value_heads": 1}


def tokens():
    ids = np.random.default_rng(0).integers(1, WORDS, (EXAMPLES, LENGTH))
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


def images():
    return np.random.default_rng(0).normal(size=(EXAMPLES, 16, 16, 3)).astype("float32")


def bert():
    lengths = {"num_heads": 2, "max_sequence_length": LENGTH, "dropout": 0.0}
    backbone = hub.BertBackbone(**WORDED, **lengths)
    inputs = tokens() | {"segment_ids": np.zeros((EXAMPLES, LENGTH), int)}
    return hub.BertTextClassifier(backbone, num_classes=CLASSES), inputs


def gpt2():
    lengths = {"num_heads": 2, "max_sequence_length": LENGTH, "dropout": 0.0}
    return hub.GPT2CausalLM(hub.GPT2Backbone(**WORDED, **lengths)), tokens()


def gemma3():
    backbone = hub.Gemma3Backbone(**GROUPED, head_dim=8, image_size=16)
    return hub.Gemma3CausalLM(preprocessor=None, backbone=backbone), tokens()


def llama3():
    return hub.Llama3CausalLM(hub.Llama3Backbone(**GROUPED)), tokens()


def vit():
    backbone = hub.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
    )
    return hub.ViTImageClassifier(backbone, num_classes=CLASSES), images()


def resnet():
    backbone = hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    return hub.ResNetImageClassifier(backbone, num_classes=CLASSES), images()


def whisper():
    lengths = {"max_encoder_sequence_length": 10, "max_decoder_sequence_length": LENGTH}
    given = tokens()
    sound = np.random.default_rng(0).normal(size=(EXAMPLES, 10, 80)).astype("float32")
    return hub.WhisperBackbone(**WORDED, num_heads=2, **lengths), {
        "encoder_features": sound,
        "decoder_token_ids": given["token_ids"],
        "decoder_padding_mask": given["padding_mask"],
    }


MODELS = [gpt2, resnet]
# Which compiles each for seconds, in the same way.
if BACKEND != "jax":
    MODELS += [bert, gemma3, llama3, vit, whisper]


def outputs(model, inputs):
    found = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(output) for output in found]


@pytest.fixture(scope="module", params=MODELS, ids=lambda build: build.__name__)
def pruned(request):
    """A model, its sparse and its stripped copy, and inputs."""
    keras.utils.set_random_seed(0)
    model, inputs = request.param()
    overrides = {} if request.param is resnet else {".*embedding.*": None}
    with warnings.catch_warnings():
        # So small a batch is little to go by.
        warnings.filterwarnings("ignore", "These layers had fewer inputs")
        sparse = sos.one_shot(model, sos.SparseGPT(0.5), inputs, overrides=overrides)
    return model, sparse, sos.strip(sparse), inputs


@pytest.mark.feature("others: KerasHub, one shot")
def test_all_but_tables_is_pruned_and_stripped(pruned):
    model, sparse, plain, inputs = pruned
    for layer in sos.sparsity_report(sparse).layers:
        assert layer.sparsity == (0.0 if layer.technique == "dense" else 0.5)
        assert (layer.technique == "dense") == ("embedding" in layer.name)
    assert type(plain) is type(model)
    found = zip(outputs(sparse, inputs), outputs(plain, inputs), strict=True)
    for one, other in found:
        np.testing.assert_array_equal(one, other)


def test_files_and_presets(pruned, tmp_path):
    model, sparse, plain, inputs = pruned
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.saving.load_model(tmp_path / "sparse.keras")
    assert sos.sparsity_report(loaded).sparsity == sos.sparsity_report(sparse).sparsity
    plain.save_to_preset(tmp_path / "preset")
    again = type(model).from_preset(str(tmp_path / "preset"))
    for one, other in zip(outputs(plain, inputs), outputs(again, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.any_backend
@pytest.mark.parametrize("mode", ["int8", "int4", "gptq", "awq"])
def test_presets_of_quantized_models_keep_zeros(mode, tmp_path):
    keras.utils.set_random_seed(0)
    model, inputs = gpt2()
    magnitude = sos.MagnitudePruning(0.5, begin_step=0, end_step=0, frequency=1)
    overrides = {".*embedding.*": None}
    plain = sos.strip(sos.one_shot(model, magnitude, overrides=overrides))
    configs = {"gptq": keras.quantizers.GPTQConfig, "awq": keras.quantizers.AWQConfig}
    given = {"num_samples": EXAMPLES, "sequence_length": LENGTH, "group_size": 8}
    ids = inputs["token_ids"]
    if mode in configs:
        sos.quantize(plain, config=configs[mode](ids, len, **given))
    else:
        sos.quantize(plain, mode)
    plain.save_to_preset(tmp_path)
    again = type(model).from_preset(str(tmp_path))
    after = sos.weight_masks(again)
    for name, mask in sos.weight_masks(plain).items():
        np.testing.assert_array_equal(after[name], mask)
    # Not of int4 the logits: KerasHub's table forgets how it rounds their inputs.
    parts = [x.backbone if mode == "int4" else x for x in (plain, again)]
    for one, other in zip(*(outputs(x, inputs) for x in parts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_zeros_stay_in_training(pruned):
    _, sparse, _, inputs = pruned
    if isinstance(sparse, hub.Backbone):
        pytest.skip("a backbone has no loss of its own")
    before = sos.sparsity_report(sparse).sparsity
    is_language = isinstance(inputs, dict) and "segment_ids" not in inputs
    targets = inputs["token_ids"] if is_language else np.arange(EXAMPLES) % CLASSES
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sparse.compile(keras.optimizers.SGD(0.01), loss)
    sparse.fit(inputs, targets, verbose=0, callbacks=sos.callbacks(sparse))
    assert sos.sparsity_report(sparse).sparsity == before


def test_text_is_generated_with_caches(pruned):
    _, sparse, _, inputs = pruned
    if not isinstance(sparse, hub.CausalLM):
        pytest.skip("generates nothing")
    if isinstance(sparse, hub.Gemma3CausalLM):
        pytest.skip("KerasHub's own fails without a preprocessor")
    begun = {name: values.copy() for name, values in inputs.items()}
    begun["padding_mask"][:, LENGTH // 2 :] = 0
    found = []
    # Which may have been trained since.
    for model in (sparse, sos.strip(sparse)):
        model.compile(sampler="greedy")
        found.append(model.generate(begun, stop_token_ids=None)["token_ids"])
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, found))


@pytest.mark.skipif(BACKEND == "jax", reason="written by another backend")
def test_a_sparse_file_of_what_has_fixed_lengths(pruned, tmp_path):
    _, _, plain, inputs = pruned
    if isinstance(inputs, dict) and BACKEND == "torch":
        pytest.skip("PyTorch writes models of fixed lengths")
    sos.export(plain, tmp_path / "model.sparse", "sparse")
    assert (tmp_path / "model.sparse").stat().st_size

"""Folders of transformers as tiers: tiny models with drawn weights, saved and loaded as users do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.models.extras import import_extra
from cascade_tools.models.source import ExportableSource
from cascade_tools.models.sources import check_sources, load_source
from tests.exported import assert_answers_as_its_source
from tests.helpers import Array, Json, changed, spec_content, write_cascade

try:
    transformers: Any = import_extra("transformers", "hf", "tests")
except EnvironmentLacks as error:
    pytest.skip(f"NOT TESTED: {error.message}; {error.hint}", allow_module_level=True)

CLASSES, WORDS, TOKENS = 3, 50, 7
BODY = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
TEXT = {**BODY, "vocab_size": WORDS, "max_position_embeddings": 16, "num_labels": CLASSES}
WIDE = 15.0  # weights as drawn give nearly the same logits for every row


def vit() -> Any:
    config = transformers.ViTConfig(**BODY, image_size=8, patch_size=4, num_labels=CLASSES)
    return transformers.ViTForImageClassification(config)


def bert() -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT))


def distilbert() -> Any:
    shape = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 16}
    config = transformers.DistilBertConfig(vocab_size=WORDS, num_labels=CLASSES, **shape)
    return transformers.DistilBertForSequenceClassification(config)


def tagger() -> Any:
    return transformers.BertForTokenClassification(transformers.BertConfig(**TEXT))


def llama() -> Any:
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=1, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Any]], Path]:
    """Saves each model once; a test that changes its folder copies it."""
    root = tmp_path_factory.mktemp("hf")

    def saved(make: Callable[[], Any]) -> Path:
        folder = root / make.__name__
        if not folder.exists():
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = make().eval()
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.mul_(WIDE if weight.ndim > 1 else 1.0)
                model.save_pretrained(folder)
        return folder

    return saved


Saved = Callable[[Callable[[], Any]], Path]


def load(folder: Path, model: Path, mask: str | None = None) -> ExportableSource:
    """The source of a tier whose folder of transformers is a copy of `model`."""
    content = spec_content()
    content["tiers"] = [{"name": "small", "source": {"hf": "model"}}]
    content["calibration"] = {"mask": mask}
    cascade = write_cascade(folder, content)
    if model != folder / "model":
        shutil.copytree(model, folder / "model")
    return load_source(cascade, cascade.tiers[0])


def images(count: int) -> dict[str, Array]:
    pixels = np.random.default_rng(count).normal(size=(count, 3, 8, 8))
    return {"pixel_values": pixels.astype(np.float32)}


def texts(count: int) -> dict[str, Array]:
    """Token ids filled up on the right; the mask first, which no model has as its first input."""
    rng = np.random.default_rng(count)
    mask = (np.arange(TOKENS) < rng.integers(1, TOKENS + 1, count)[:, None]).astype(np.int64)
    return {"attention_mask": mask, "input_ids": rng.integers(1, WORDS, (count, TOKENS)) * mask}


def pairs(count: int) -> dict[str, Array]:
    segments = np.random.default_rng(count + 1).integers(0, 2, (count, TOKENS))
    return {"token_type_ids": segments, **texts(count)}


# Models


def test_a_classifier_of_images(tmp_path: Path, folders: Saved) -> None:
    source = load(tmp_path, folders(vit))
    assert source.parameters == sum(p.numel() for p in vit().parameters())
    assert_answers_as_its_source(source, images)


def test_a_classifier_of_texts(tmp_path: Path, folders: Saved) -> None:
    """DistilBERT has no token_type_ids; in a ladder with BERT its rows have them all the same."""
    assert_answers_as_its_source(load(tmp_path, folders(distilbert)), pairs)


def test_a_causal_language_model(tmp_path: Path, folders: Saved) -> None:
    """Its embedding and its last layer are one tensor, saved once."""
    assert "lm_head.weight" not in load_file(folders(llama) / "model.safetensors")
    source = load(tmp_path, folders(llama), "attention_mask")
    assert source.logits(texts(3)).shape == (3, TOKENS, WORDS)
    assert_answers_as_its_source(source, texts, "attention_mask")


def test_a_classifier_of_tokens(tmp_path: Path, folders: Saved) -> None:
    assert load(tmp_path, folders(tagger)).logits(pairs(3)).shape == (3, TOKENS, CLASSES)


def test_logits_are_those_of_transformers(tmp_path: Path, folders: Saved) -> None:
    rows = pairs(9)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = transformers.BertForSequenceClassification.from_pretrained(folders(bert)).eval()
        wanted = model(**{name: torch.from_numpy(values) for name, values in rows.items()}).logits
    found = load(tmp_path, folders(bert)).logits(rows)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_whole_numbers_of_other_widths_are_taken(tmp_path: Path, folders: Saved) -> None:
    source = load(tmp_path, folders(bert))
    rows = texts(5)
    narrow = {name: values.astype(np.int32) for name, values in rows.items()}
    np.testing.assert_array_equal(source.logits(narrow), source.logits(rows))
    without_mask = source.logits({"input_ids": rows["input_ids"]})
    assert np.abs(without_mask - source.logits(rows)).max() > 1e-3


def test_a_mask_that_only_the_head_reads(tmp_path: Path, folders: Saved) -> None:
    source = load(tmp_path, folders(llama), "labels")
    rows = texts(4)
    counted = {**rows, "labels": np.ones_like(rows["input_ids"])}
    np.testing.assert_array_equal(source.logits(counted), source.logits(rows))


def test_weights_in_parts_are_read(tmp_path: Path, folders: Saved) -> None:
    model = tmp_path / "model"
    shutil.copytree(folders(vit), model)
    write_in_parts(model)
    whole = load(tmp_path / "other", folders(vit)).logits(images(5))
    np.testing.assert_array_equal(load(tmp_path, model).logits(images(5)), whole)


def test_nothing_asks_the_network(tmp_path: Path, folders: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load(tmp_path, folders(vit)).logits(images(2)).shape == (2, CLASSES)


def test_the_models_own_bars_and_warnings_stay_inside(
    tmp_path: Path, folders: Saved, capfd: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path, folders(vit))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


# Refusals


def write_in_parts(model: Path) -> None:
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    half = len(state) // 2
    names = {name: f"part-{int(i >= half)}.safetensors" for i, name in enumerate(state)}
    for part in set(names.values()):
        save_file({n: v for n, v in state.items() if names[n] == part}, model / part, {"format": "pt"})
    index = {"metadata": {}, "weight_map": names}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def edit_config(model: Path, change: Callable[[Json], object]) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), change)))


def as_pickle(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def edit_state(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(model / "model.safetensors")
    change(state)
    save_file(state, model / "model.safetensors", {"format": "pt"})


def cut_off(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def in_parts_elsewhere(model: Path) -> None:
    write_in_parts(model)
    path = model / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("part-1", "../part-1"))


def in_parts_lost(model: Path) -> None:
    write_in_parts(model)
    (model / "part-1.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message", "hint"),
    [
        (shutil.rmtree, "no such folder", ""),
        (lambda m: (m / "config.json").unlink(), "config.json: no such file", "save_pretrained"),
        (lambda m: (m / "config.json").write_text("{"), "config.json: cannot be read as JSON", ""),
        (lambda m: (m / "config.json").write_text("[]"), "must be a JSON object, found list", ""),
        (as_pickle, "pytorch_model.bin: weights must be safetensors", "save it again"),
        (lambda m: (m / "model.safetensors").unlink(), "no model.safetensors and no", "save_pretrained"),
        (cut_off, "does not load: ", ""),
        (lambda m: edit_state(m, lambda s: s.pop("classifier.weight")), "missing classifier.weight", "task"),
        (
            lambda m: edit_state(m, lambda s: s.update({"classifier.weight": torch.zeros(9, 16)})),
            "the weights do not fit config.json: mismatched classifier.weight",
            "",
        ),
        (in_parts_elsewhere, "names '../part-1.safetensors'; its parts must be", ""),
        (in_parts_lost, "part-1.safetensors: no such file", ""),
        (lambda m: (m / "adapter_config.json").write_text("{}"), "an adapter, not a whole model", "merge"),
        (
            lambda m: edit_config(m, lambda c: c.update(auto_map={"AutoModel": "code.Model"})),
            "has 'auto_map': its code is in the folder itself",
            "",
        ),
        (
            lambda m: edit_config(m, lambda c: c.update(quantization_config={"bits": 4})),
            "has 'quantization_config'",
            "",
        ),
        (
            lambda m: edit_config(m, lambda c: c.update(architectures=["ViTForMaskedImageModeling"])),
            "ViTForMaskedImageModeling is none of the known kinds: *ForImageClassification, ",
            "give that as `torch`",
        ),
        (
            lambda m: edit_config(m, lambda c: c.update(architectures=["NoSuchForImageClassification"])),
            "has no model NoSuchForImageClassification",
            "",
        ),
        (
            lambda m: edit_config(m, lambda c: c.pop("architectures")),
            "'architectures' must name one class, found None",
            "",
        ),
        (
            lambda m: edit_config(m, lambda c: c.update(problem_type="multi_label_classification")),
            "problem_type is 'multi_label_classification'",
            "",
        ),
        (lambda m: edit_config(m, lambda c: c.update(id2label={"0": "yes"})), "has one label only", ""),
    ],
)
def test_a_folder_that_does_not_do_is_refused(
    tmp_path: Path, folders: Saved, damage: Callable[[Path], object], message: str, hint: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folders(vit), model)
    damage(model)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, model)
    assert caught.value.message.startswith(f"tiers.small.source.hf: {model}")
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_a_pickle_beside_good_weights_stays_unread(tmp_path: Path, folders: Saved) -> None:
    model = tmp_path / "model"
    shutil.copytree(folders(vit), model)
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch touched'\ntR.")
    assert load(tmp_path, model).logits(images(2)).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (
            bert,
            ["ids", "attention_mask"],
            "takes inputs input_ids and optionally attention_mask, token_type_ids",
        ),
        (bert, ["input_ids", "labels"], "but the data has ['input_ids', 'labels']"),
        (llama, ["input_ids", "token_type_ids"], "takes inputs input_ids and optionally attention_mask,"),
        (vit, ["pixel_values", "mask"], "takes inputs pixel_values, but the data has"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    tmp_path: Path, folders: Saved, make: Callable[[], Any], inputs: list[str], message: str
) -> None:
    source = load(tmp_path, folders(make))
    with pytest.raises(UsageError) as caught:
        source.logits({name: texts(2)["input_ids"] for name in inputs})
    assert caught.value.message.startswith("tiers.small.source.hf: takes inputs ")
    assert message in caught.value.message


def test_pixels_that_no_processor_has_seen_are_refused(tmp_path: Path, folders: Saved) -> None:
    source = load(tmp_path, folders(vit))
    with pytest.raises(UsageError, match="pixel_values must be floating point numbers, as the image proc"):
        source.logits({"pixel_values": np.zeros((2, 3, 8, 8), np.uint8)})


def test_texts_of_another_length_than_the_model_takes(tmp_path: Path, folders: Saved) -> None:
    source = load(tmp_path, folders(bert))
    with pytest.raises(UsageError, match=r"tiers\.small\.source: forward: "):
        source.logits({"input_ids": np.ones((2, 17), np.int64)})


def test_without_transformers_the_message_says_what_to_install(
    tmp_path: Path, folders: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EnvironmentLacks) as caught:
        load(tmp_path, folders(vit))
    assert caught.value.message == "tiers.small.source.hf: needs transformers, which is not installed"
    assert caught.value.hint == "pip install 'cascade-tools[hf]'"


def test_the_environment_stays_as_it_was(tmp_path: Path, folders: Saved) -> None:
    before = dict(os.environ)
    load(tmp_path, folders(vit))
    assert dict(os.environ) == before


def test_a_missing_folder_of_the_last_tier_is_found_before_any_model_is_loaded(tmp_path: Path) -> None:
    content = spec_content()
    content["tiers"][0]["source"] = {"torch": "nowhere:never"}
    content["tiers"][1]["source"] = {"hf": "models/large"}
    cascade = write_cascade(tmp_path, content)
    with pytest.raises(UsageError, match=r"tiers\.large\.source\.hf: .*models/large: no such folder"):
        check_sources(cascade)

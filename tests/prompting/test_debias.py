"""Prompt debiasing on a small random masked language model of the published class."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from options import option

from dreamfusion.error import GuidanceError
from dreamfusion.prompting import debias
from dreamfusion.prompting.debias import SENTENCE, debiased, view_probabilities
from dreamfusion.prompting.view_dependent import VIEWS

WORDS = ["a", "big", "smiling", "corgi", "face", "with", "fur", "this", "is", "photo", "of", "the", "view", "."]


def save_bert(folder, views=VIEWS):
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *views, *WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    network = BertForMaskedLM(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            initializer_range=1.0,
        )
    )
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@torch.no_grad()
def test_the_probability_of_a_view_is_that_at_the_mask_among_the_views(model):
    from transformers import BertForMaskedLM, BertTokenizer

    tokenizer, network = BertTokenizer.from_pretrained(model), BertForMaskedLM.from_pretrained(model)
    prompts = ["a corgi", "a big smiling corgi"]
    for prompt, row in zip(prompts, view_probabilities(prompts, VIEWS, model), strict=True):
        tokens = tokenizer(SENTENCE.format(mask="[MASK]", prompt=prompt), return_tensors="pt")
        place = tokens.input_ids[0].tolist().index(4)
        chances = network(**tokens).logits[0, place].softmax(-1)[5:9]  # the views follow the five special tokens
        torch.testing.assert_close(row, chances / chances.sum())


def test_a_word_is_removed_from_the_views_that_it_makes_unlikely(monkeypatch):
    chances = {
        "a smiling corgi": [0.7, 0.1, 0.1, 0.1],
        "smiling corgi": [0.7, 0.1, 0.1, 0.1],
        "a corgi": [0.4, 0.2, 0.3, 0.1],
        "a smiling": [0.7, 0.105, 0.1, 0.095],
    }
    monkeypatch.setattr(
        debias, "view_probabilities", lambda prompts, views, model: torch.tensor([chances[text] for text in prompts])
    )
    assert debiased("a smiling corgi", VIEWS, "any", 0.95) == [
        "a smiling corgi",
        "a corgi",
        "a corgi",
        "a smiling corgi",
    ]
    assert debiased("a smiling corgi", VIEWS, "any", 0.0) == ["a smiling corgi"] * 4


def test_a_view_that_would_lose_every_word_keeps_the_prompt(monkeypatch):
    monkeypatch.setattr(
        debias, "view_probabilities", lambda prompts, views, model: torch.tensor([[0.1] * 4, [0.9] * 4])
    )
    assert debiased("corgi", VIEWS, "any", 0.95) == ["corgi"] * 4


def test_the_view_texts_are_made_of_the_debiased_prompts(model):
    prompting = option("prompting/view_dependent", debias={"model": model, "threshold": 1.0})
    prompt = "a big smiling corgi face with fur"
    prompts = debiased(prompt, VIEWS, model, 1.0)
    assert len(set(prompts)) > 1
    assert prompting.texts(f" {prompt} ") == [f"{one}, {view} view" for one, view in zip(prompts, VIEWS, strict=True)]
    assert option("prompting/view_dependent").texts(prompt)[0] == f"{prompt}, front view"


def test_a_missing_model_is_named_with_its_setting():
    with pytest.raises(GuidanceError) as caught:
        debiased("a corgi", VIEWS, "/no/such/folder", 0.95)
    assert "no weights for prompting.debias.model; tried\n  /no/such/folder: no such folder" in str(caught.value)
    assert "Give a folder with the model's files with prompting.debias.model=/path/to/folder" in str(caught.value)


def test_a_model_that_does_not_know_the_views_is_named(tmp_path):
    folder = save_bert(tmp_path, views=("front", "side"))
    with pytest.raises(GuidanceError, match=r"has no token for back, overhead; type prompting.debias.model="):
        debiased("a corgi", VIEWS, folder, 0.95)


def test_code_and_pickled_weights_in_a_models_folder_are_not_executed(tmp_path, monkeypatch):
    """transformers would ask for consent."""
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    folder, evil = Path(save_bert(tmp_path)), f"from pathlib import Path\nPath({str(tmp_path / 'owned')!r}).touch()\n"
    (folder / "evil.py").write_text(evil)
    names = {"AutoConfig": "evil.Evil", "AutoModelForMaskedLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    for name, changes in (
        ("config.json", {"model_type": "evil"}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil"}),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(before) | changes | {"auto_map": names}))
        with suppress(GuidanceError):  # or the tokenizer is read without its class
            view_probabilities(["a corgi"], VIEWS, str(folder))
        (folder / name).write_text(before)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(GuidanceError, match="pickled ones, which may hold code and are not read"):
        view_probabilities(["a corgi"], VIEWS, str(folder))
    assert not (tmp_path / "owned").exists()

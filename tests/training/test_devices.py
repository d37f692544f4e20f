from __future__ import annotations

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.training import devices
from merkhet.training.config import Running


def test_the_cpu_can_be_asked_for() -> None:
    accelerator, device = devices.start(Running(cpu=True), None)
    assert device == torch.device("cpu")
    assert accelerator.num_processes == 1


def test_otherwise_the_device_is_accelerate_s() -> None:
    accelerator, device = devices.start(Running(), None)
    assert device == accelerator.device


def test_a_process_set_up_for_another_precision_is_refused() -> None:
    from accelerate.state import AcceleratorState

    devices.start(Running(), None)
    before = AcceleratorState._shared_state["_mixed_precision"]
    AcceleratorState._shared_state["_mixed_precision"] = "bf16"
    try:
        with pytest.raises(InputError, match="set up otherwise in this process, train in a new"):
            devices.start(Running(), None)
    finally:
        AcceleratorState._shared_state["_mixed_precision"] = before


def test_networks_split_over_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SUPPORTED", ())
    with pytest.raises(InputError, match="set up for NO: train with plain data parallelism"):
        devices.start(Running(), None)

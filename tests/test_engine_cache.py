# SPDX-License-Identifier: Apache-2.0
"""An engine is loaded only if this station built it, for exactly this model, and not a bit has changed since."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_factory import STATION, key, needs_rtx, plan, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.backends import private_files
from runtime.backends.engine_cache import CHOSEN, PLAN, RECORD, EngineCache, EngineRecord
from runtime.backends.engine_key import EngineKey, differences
from runtime.backends.tensorrt_build import BuildSettings
from runtime.contract.codec import encode
from runtime.contract.conventions import TensorDtype
from runtime.errors import BackendError, ContractError

pytestmark = needs_rtx


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def filled(cache: EngineCache, tmp_path: Path) -> tuple[EngineCache, EngineKey]:
    wanted = key(tmp_path / "model")
    cache.publish(plan(), record(wanted, plan()))
    return cache, wanted


def test_published_engine_is_found_bit_for_bit(filled: tuple[EngineCache, EngineKey]) -> None:
    cache, wanted = filled
    found = cache.find(wanted)
    assert found is not None
    assert (found.plan, found.record) == (plan(), record(wanted, plan()))
    assert cache.chosen(wanted).record.key == wanted


def test_absent_engine_is_none_and_the_next_command_is_said(cache: EngineCache, tmp_path: Path) -> None:
    wanted = key(tmp_path / "model")
    assert cache.find(wanted) is None
    with pytest.raises(BackendError, match=r"no engine for this model on this station \(0 .*python -m runtime build"):
        cache.chosen(wanted)
    assert not cache.root.exists(), "asking must not make folders"


def changed(wanted: EngineKey) -> dict[str, EngineKey]:
    """The key with one thing changed, for everything that it holds."""
    station = {
        f"station.{name}": replace(wanted, station=replace(wanted.station, **{name: value}))
        for name, value in {
            "library": "tensorrt_rtx", "library_version": "10.16.1.12", "cuda_runtime": "13.1", "cuda_driver": "13.2",
            "kernel_driver": "590.1.1", "gpu": "NVIDIA L4", "sm": "9.0", "sm_count": 58, "system": "Other",
            "machine": "aarch64",
        }.items()
    }  # fmt: skip
    settings = {
        f"settings.{name}": replace(wanted, settings=replace(wanted.settings, **{name: value}))
        for name, value in {
            "optimization_level": 4, "workspace_bytes": 1 << 20, "tf32": True, "timing_cache": False,
        }.items()
    }  # fmt: skip
    tensor = replace(wanted.inputs[0], shape=(1, 2, 3, 16, 13))
    actions = replace(wanted.outputs[0], dtype=TensorDtype.INT64)
    rest = {
        "model": replace(wanted, model=(replace(wanted.model[0], sha256="0" * 64),)),
        "weights": replace(wanted, model=(*wanted.model, replace(wanted.model[0], name="policy.onnx.data"))),
        "precision": replace(wanted, precision="fp16"),
        "input": replace(wanted, inputs=(tensor, *wanted.inputs[1:])),
        "output": replace(wanted, outputs=(actions,)),
        "flags": replace(wanted, flags=("STRONGLY_TYPED", "TF32")),
        "builder": replace(wanted, builder=2),
    }
    return {**station, **settings, **rest}


def test_key_depends_on_everything_in_it(tmp_path: Path) -> None:
    wanted = key(tmp_path / "model")
    variants = changed(wanted)
    fields = {f"station.{name}" for name in encode(wanted.station)} | {f"settings.{n}" for n in encode(wanted.settings)}
    assert fields <= set(variants), "a new field needs its line in `changed`"
    digests = {name: variant.digest for name, variant in variants.items()}
    assert len({wanted.digest, *digests.values()}) == len(digests) + 1
    same_slot = {name for name, variant in variants.items() if variant.slot == wanted.slot}
    assert same_slot == {name for name in variants if name.startswith("settings.") or name == "flags"}


def test_engine_of_any_other_key_is_not_found(filled: tuple[EngineCache, EngineKey]) -> None:
    cache, wanted = filled
    assert [name for name, other in changed(wanted).items() if cache.find(other) is not None] == []


def test_weights_beside_a_bare_graph_are_in_its_key(tmp_path: Path) -> None:
    before = key(tmp_path / "model")
    (tmp_path / "model" / "policy.onnx.data").write_bytes(b"weights")
    after = key(tmp_path / "model")
    assert [file.name for file in after.model] == ["policy.onnx", "policy.onnx.data"]
    assert before.digest != after.digest


def test_another_driver_is_named(filled: tuple[EngineCache, EngineKey]) -> None:
    cache, wanted = filled
    newer = replace(wanted, station=replace(STATION, kernel_driver="590.1.1"))
    assert differences(wanted, newer) == ["kernel_driver 580.95.05 -> 590.1.1"]
    with pytest.raises(BackendError, match=r"one was built with kernel_driver 580\.95\.05 -> 590\.1\.1"):
        cache.chosen(newer)


def test_last_built_settings_are_chosen(filled: tuple[EngineCache, EngineKey], tmp_path: Path) -> None:
    cache, wanted = filled
    slower = key(tmp_path / "model", settings=BuildSettings(optimization_level=5))
    cache.publish(plan(), record(slower, plan()))
    assert cache.chosen(wanted).record.key == slower
    cache.choose(wanted)
    assert cache.chosen(slower).record.key == wanted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_the_plan_is_refused(filled: tuple[EngineCache, EngineKey], data: st.DataObject) -> None:
    cache, wanted = filled
    whole = plan()
    at = data.draw(st.integers(0, len(whole) - 1))
    spoiled = data.draw(
        st.sampled_from([whole[:at], whole + b"\0", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]])
    )
    path = cache.root / wanted.digest / PLAN
    path.write_bytes(spoiled)
    for ask in (cache.find, cache.chosen):
        with pytest.raises(BackendError, match="not what was built here and is not loaded"):
            ask(wanted)
    path.write_bytes(whole)
    assert cache.find(wanted) is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_the_record_is_refused_or_harmless(
    filled: tuple[EngineCache, EngineKey], data: st.DataObject
) -> None:
    """Harmless: numbers for people, and white space. Never another plan, never another key."""
    cache, wanted = filled
    path = cache.root / wanted.digest / RECORD
    whole = path.read_bytes()
    at, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    try:
        found = cache.find(wanted)
    except BackendError:
        found = None
    else:
        assert found is not None
        assert (found.plan, found.record.key) == (plan(), wanted)
        assert found.record.proof.passed
    path.write_bytes(whole)


RECORDS = {
    "no json": b"{",
    "another schema": b'{"version": 2}',
    "a list": b"[]",
    "huge": b" " * (1 << 21),
    "empty": b"",
}


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_record_is_refused(filled: tuple[EngineCache, EngineKey], name: str) -> None:
    cache, wanted = filled
    (cache.root / wanted.digest / RECORD).write_bytes(RECORDS[name])
    with pytest.raises(BackendError, match=r"record\.json: (damaged|found \d+ bytes)"):
        cache.find(wanted)


def test_record_without_parity_cannot_be_made(tmp_path: Path) -> None:
    good = record(key(tmp_path / "model"), b"plan")
    with pytest.raises(ContractError, match=r"EngineRecord\.proof"):
        replace(good, proof=replace(good.proof, worst=1e-3))


def test_entry_under_another_key_is_refused(filled: tuple[EngineCache, EngineKey]) -> None:
    cache, wanted = filled
    other = replace(wanted, precision="fp16")
    shutil.copytree(cache.root / wanted.digest, cache.root / other.digest)
    with pytest.raises(BackendError, match="is about another engine than its folder"):
        cache.find(other)


@pytest.mark.parametrize("name", ["../../etc", "0" * 64, ""])
def test_pointer_that_leads_elsewhere_is_refused(filled: tuple[EngineCache, EngineKey], name: str) -> None:
    cache, wanted = filled
    (cache.root / CHOSEN / f"{wanted.slot}.json").write_text(json.dumps({"key": name}))
    with pytest.raises(BackendError, match=r"expected the key of an engine|is gone"):
        cache.chosen(wanted)


def test_pointer_to_another_model_is_refused(filled: tuple[EngineCache, EngineKey]) -> None:
    cache, wanted = filled
    other = replace(wanted, precision="fp16")
    cache.publish(plan(), record(other, plan()))
    (cache.root / CHOSEN / f"{wanted.slot}.json").write_text(json.dumps({"key": other.digest}))
    with pytest.raises(BackendError, match="names the engine of another model or station"):
        cache.chosen(wanted)


def linked(path: Path) -> None:
    real = path.with_name("real")
    path.rename(real)
    path.symlink_to(real)


OPEN_TO_OTHERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "root others write": ("", lambda path: path.chmod(0o777), "lets others write"),
    "entry group writes": ("{key}", lambda path: path.chmod(0o775), "lets others write"),
    "plan others write": ("{key}/engine.plan", lambda path: path.chmod(0o666), "lets others write"),
    "record others write": ("{key}/record.json", lambda path: path.chmod(0o646), "lets others write"),
    "plan is a link": ("{key}/engine.plan", linked, "cannot be opened as a regular file"),
    "entry is a link": ("{key}", linked, "found a link"),
    "root is a link": ("", linked, "found a link"),
    "plan is a pipe": (
        "{key}/engine.plan",
        lambda path: (path.unlink(), os.mkfifo(path))[1],
        "found a link or another",
    ),
}


@pytest.mark.parametrize("name", OPEN_TO_OTHERS)
def test_what_others_could_have_written_is_refused(filled: tuple[EngineCache, EngineKey], name: str) -> None:
    cache, wanted = filled
    inside, spoil, message = OPEN_TO_OTHERS[name]
    spoil(cache.root / inside.format(key=wanted.digest))
    with pytest.raises(BackendError, match=message):
        cache.find(wanted)
    with pytest.raises(BackendError):
        cache.chosen(wanted)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("inside", ["", "{key}", "{key}/engine.plan", "{key}/record.json"])
def test_what_another_user_owns_is_refused(filled: tuple[EngineCache, EngineKey], inside: str) -> None:
    cache, wanted = filled
    os.chown(cache.root / inside.format(key=wanted.digest), 12345, 12345)
    with pytest.raises(BackendError, match="belongs to user 12345"):
        cache.find(wanted)


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """`act` instead of the `number`th change of the disk (sync, rename, replace)."""
    calls = [0]

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            calls[0] += 1
            if calls[0] == number:
                act()
            return real(*arguments, **named)

        return call

    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))


def publish_in_child(cache: EngineCache, entry: EngineRecord, number: int) -> int:
    """Publish in a forked process that is killed at the `number`th change; its signal, or 0 if it got to the end."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
            try:
                cache.publish(plan(), entry)
            finally:
                os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("older", [False, True])
def test_killed_at_any_moment_nothing_half_written_is_loaded(cache: EngineCache, tmp_path: Path, older: bool) -> None:
    wanted = key(tmp_path / "model")
    plan()  # built before the fork
    ends, number = [], 0
    while not ends or ends[-1] != 0:
        number += 1
        shutil.rmtree(cache.root, ignore_errors=True)
        if older:
            cache.publish(plan(), replace(record(wanted, plan()), layers=1))
        ends.append(publish_in_child(cache, record(wanted, plan()), number))
        found = cache.find(wanted)
        assert found is None or (found.plan == plan() and found.record.layers in (1, 41))
        with cache.building(lambda line: None):
            pass
        left = [path for path in cache.root.rglob("*") if path.name.startswith(private_files.STAGING)]
        assert left == [], "the next build sweeps up"
        cache.publish(plan(), record(wanted, plan()))
        assert cache.chosen(wanted).record.layers == 41
    assert ends[:-1] == [-signal.SIGKILL] * (len(ends) - 1)
    assert len(ends) > 6, "the publication has this many moments at least"


@pytest.mark.parametrize("number", range(1, 8))
def test_full_disk_leaves_a_whole_entry(
    filled: tuple[EngineCache, EngineKey], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cache, wanted = filled

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        killed_at(patch, number, full)
        with pytest.raises(OSError, match="No space left"):
            cache.publish(plan(), replace(record(wanted, plan()), layers=2))
    found = cache.find(wanted)
    assert found is not None
    assert found.plan == plan()
    assert not list(cache.root.glob(f"{private_files.STAGING}*"))


def test_timings_come_back_for_the_same_station_alone(cache: EngineCache) -> None:
    cache.keep_timing(STATION, b"timings")
    said: list[str] = []
    assert cache.timing(STATION, said.append) == b"timings"
    assert cache.timing(replace(STATION, gpu="NVIDIA L4"), said.append) == b""
    assert said == []


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"", lambda d: bytes([d[0] ^ 1]) + d[1:]]
)
def test_damaged_timings_are_not_used(cache: EngineCache, spoil: Callable[[bytes], bytes]) -> None:
    cache.keep_timing(STATION, b"timings" * 9)
    (path,) = (cache.root / "timing").glob("*.cache")
    path.write_bytes(spoil(path.read_bytes()))
    said: list[str] = []
    assert cache.timing(STATION, said.append) == b""
    assert "damaged timing cache, not used" in said[0]


def test_discarded_entry_is_gone(filled: tuple[EngineCache, EngineKey]) -> None:
    cache, wanted = filled
    cache.discard(wanted)
    cache.discard(wanted)
    assert cache.find(wanted) is None
    with pytest.raises(BackendError, match="was chosen and is gone"):
        cache.chosen(wanted)

# SPDX-License-Identifier: Apache-2.0
"""The DDS profile: used unless the user has one, and large enough for camera images."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from dropgate_controller.ros_setup import PROFILE, VARIABLES, use_shared_memory

NS = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
IMAGE = 640 * 480 * 3  # bytes; the default segment of 512 KiB cannot hold it


@pytest.fixture(autouse=True)
def _no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)


def test_both_names_of_the_variable_get_our_profile() -> None:
    use_shared_memory()
    assert [os.environ[name] for name in VARIABLES] == [str(PROFILE)] * 2


@pytest.mark.parametrize("theirs", VARIABLES)
def test_profile_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch, theirs: str) -> None:
    monkeypatch.setenv(theirs, "/etc/cell/dds.xml")
    use_shared_memory()
    assert {name: os.environ.get(name) for name in VARIABLES} == {
        **dict.fromkeys(VARIABLES), theirs: "/etc/cell/dds.xml",
    }  # fmt: skip


def test_profile_holds_images_and_keeps_udp_for_other_machines() -> None:
    root = ElementTree.parse(PROFILE).getroot()
    sizes = {name: int(root.findtext(f".//dds:{name}", namespaces=NS)) for name in ("segment_size", "maxMessageSize")}
    assert sizes["segment_size"] >= 10 * IMAGE
    assert IMAGE < sizes["maxMessageSize"] <= sizes["segment_size"]
    kinds = {
        node.findtext("dds:transport_id", namespaces=NS): node.findtext("dds:type", namespaces=NS)
        for node in root.iterfind(".//dds:transport_descriptor", NS)
    }
    used = [node.text for node in root.iterfind(".//dds:userTransports/dds:transport_id", NS)]
    assert sorted(kinds[name] for name in used) == ["SHM", "UDPv4"]
    assert root.find(".//dds:participant", NS).get("is_default_profile") == "true"


def test_shell_gets_the_same_from_the_command_line() -> None:
    command = f'eval "$({sys.executable} -m dropgate_controller.ros_setup)" && printenv {" ".join(VARIABLES)}'
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(PROFILE)] * 2

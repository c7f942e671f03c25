"""The environment of ROS processes: profile, allocator, the user's own choices, and what killed processes left."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from prophrl_nodes import environment
from prophrl_nodes.environment import RESOURCES, clean_shared_memory, ros_environment, runs_on_wheels

PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
SCRIPTS = Path(environment.__file__).resolve().parents[1] / "scripts"


def test_on_one_machine_images_get_a_large_shared_memory_and_no_second_udp() -> None:
    values = ros_environment(7, base={})
    assert values["ROS_DOMAIN_ID"] == "7"
    assert values["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert values["MALLOC_MMAP_THRESHOLD_"] == "67108864"
    profile = ElementTree.parse(values[PROFILE]).getroot()
    names = {"dds": "http://www.eprosima.com"}
    assert [t.text for t in profile.findall(".//dds:type", names)] == ["SHM"]
    size = profile.find(".//dds:segment_size", names)
    assert size is not None
    assert int(size.text or 0) > 10 * 848 * 480 * 3


def test_across_machines_udp_is_added() -> None:
    values = ros_environment(base={"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"})
    text = Path(values[PROFILE]).read_text()
    assert "<type>UDPv4</type>" in text
    assert "<type>SHM</type>" in text


def test_what_the_user_has_set_stays() -> None:
    mine = {
        PROFILE: "/home/me/dds.xml",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
        "ROS_DOMAIN_ID": "3",
        "MALLOC_TOP_PAD_": "1",
    }
    values = ros_environment(base=mine)
    assert {name: values[name] for name in mine} == mine
    assert PROFILE not in ros_environment(base={"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})


def test_older_releases_get_the_variable_their_fast_dds_reads() -> None:
    values = ros_environment(base={"ROS_DISTRO": "jazzy"})
    assert values["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(RESOURCES / "fastdds.xml")
    assert PROFILE not in values


def test_applying_it_twice_changes_nothing() -> None:
    once = ros_environment(base={"PATH": "/bin"})
    assert ros_environment(base=once) == once


@pytest.mark.skipif(not runs_on_wheels(), reason="the bootstrapper comes with the ROS 2 wheels")
def test_an_inherited_guard_without_the_library_path_is_dropped() -> None:
    guard = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
    assert guard not in ros_environment(base={guard: "1"})
    kept = ros_environment(base={guard: "1", "LD_LIBRARY_PATH": f"{sys.prefix}/lib"})
    assert kept[guard] == "1"
    assert kept["AMENT_PREFIX_PATH"] == sys.prefix


def test_files_of_dead_processes_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    names = ["fastdds_dead", "fastdds_dead_el", "fastdds_live", "fastdds_live_el", "fastdds_port7000"]
    names += ["fastdds_port7411", "fastdds_port7411_sl", "sem.fastdds_port7411_mutex", "somebody_elses"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1.0, 1.0))
    (tmp_path / "fastdds_new_el").touch()  # its owner may be about to lock it
    with (tmp_path / "fastdds_live_el").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        removed = clean_shared_memory(tmp_path)
    dead = {"fastdds_dead", "fastdds_dead_el", "fastdds_port7000", "fastdds_port7411", "fastdds_port7411_sl"}
    assert set(removed) == {*dead, "sem.fastdds_port7411_mutex"}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"fastdds_live", "fastdds_live_el", "fastdds_new_el", "somebody_elses"}


def test_every_executable_is_the_one_shim_and_names_a_module(tmp_path: Path) -> None:
    names = sorted(path.name for path in SCRIPTS.iterdir())
    expected = (
        "arm calibrator camera drift executor gello lab offline_rl overlay policy recorder replay session teleop "
        "transforms trials"
    )
    assert names == expected.split()
    modules = Path(environment.__file__).parent / "nodes"
    for name in names:
        assert os.access(SCRIPTS / name, os.X_OK)
        assert (SCRIPTS / name).resolve().name == "node_shim.sh"
        assert (modules / f"{name}.py").is_file()

    # As installed: <prefix>/lib/prophrl_nodes/<name> beside <prefix>/bin/python3, whatever is on PATH.
    (tmp_path / "lib" / "prophrl_nodes").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    link = tmp_path / "lib" / "prophrl_nodes" / "teleop"
    link.symlink_to(SCRIPTS / "teleop")
    output = subprocess.run([link, "--ros-args", "-p", "cell:=twin"], capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["-m", "prophrl_nodes.nodes.teleop", "--ros-args", "-p", "cell:=twin"]

"""The stranger's first command says what is missing, and the files around the package hold together."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cascade_tools.repository.render import SERVERS
from cascade_tools.serving.embedded import RESTRICTED

ROOT = Path(__file__).resolve().parents[1]


def run_setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", folder / "scripts" / "setup")
    return subprocess.run(
        [folder / "scripts" / "setup"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_fitting_python_setup_says_so_and_exits_with_4(tmp_path: Path) -> None:
    done = run_setup(tmp_path, PYTHON="no-such-python")
    assert done.returncode == 4
    assert done.stderr.strip() == "setup: needs Python 3.11 or 3.12 with venv and a shared libpython"
    assert not (tmp_path / ".venv").exists()


def test_with_an_old_python_setup_names_its_version(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\necho '/usr/bin/old-python is Python 3.9' >&2\nexit 1\n")
    old.chmod(0o755)
    done = run_setup(tmp_path, PYTHON=str(old))
    assert done.returncode == 4
    assert "(found: /usr/bin/old-python is Python 3.9)" in done.stderr


def test_on_another_processor_setup_says_so_and_exits_with_4(tmp_path: Path) -> None:
    uname = tmp_path / "bin" / "uname"
    uname.parent.mkdir()
    uname.write_text('#!/bin/sh\n[ "$1" = -m ] && echo aarch64 || echo Linux\n')
    uname.chmod(0o755)
    done = run_setup(tmp_path, PATH=f"{uname.parent}:{os.environ['PATH']}")
    assert done.returncode == 4
    assert done.stderr.strip() == "setup: needs x86-64 Linux, this is Linux on aarch64"


def compose() -> dict[str, object]:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["triton"]
    assert isinstance(service, dict)
    return service


def test_compose_uses_the_server_that_repositories_are_rendered_for() -> None:
    service = compose()
    assert service["image"] == SERVERS["ngc"]
    assert f'"server": "{SERVERS["ngc"]}"' in str(service["command"])


def test_compose_publishes_loopback_ports_only_and_gives_shared_memory() -> None:
    service = compose()
    ports = service["ports"]
    assert isinstance(ports, list)
    assert len(ports) == 3
    assert all(port.startswith(("127.0.0.1:", "${CASCADE_GRPC_ADDRESS:-127.0.0.1}:")) for port in ports)
    assert service["shm_size"] == "1g"
    assert service["healthcheck"]


NGC = f'{{\n "target": "ngc",\n "server": "{SERVERS["ngc"]}"\n}}'


def run_compose(tmp_path: Path, manifest: str | None, address: str) -> subprocess.CompletedProcess[str]:
    """The command of the service, with a server that only says its arguments."""
    (tmp_path / "current").mkdir()
    if manifest is not None:
        (tmp_path / "current" / "manifest.json").write_text(manifest)
    server = tmp_path / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text('#!/bin/sh\necho "$@"\n')
    server.chmod(0o755)
    command = compose()["command"]
    assert isinstance(command, list)
    return subprocess.run(
        ["bash", "-c", command[0].replace("$$", "$").replace("/models/", f"{tmp_path}/")],
        env={
            **os.environ,
            "PATH": f"{server.parent}:{os.environ['PATH']}",
            "CASCADE_REPOSITORY": "current",
            "CASCADE_GRPC_ADDRESS": address,
        },
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("manifest", "code", "said"),
    [
        (None, 4, "build-repo"),
        ('{\n "target": "embedded",\n "server": "2.51.0"\n}', 4, "build-repo"),
        (NGC.replace("\n}", ',\n "hosts": {}\n}'), 2, "current/host1"),
        (NGC, 0, ""),
    ],
)
def test_compose_refuses_a_repository_for_another_server(
    tmp_path: Path, manifest: str | None, code: int, said: str
) -> None:
    done = run_compose(tmp_path, manifest, "127.0.0.1")
    assert done.returncode == code
    assert said in done.stderr
    assert "restricted" not in done.stdout


def test_compose_restricts_grpc_that_others_reach(tmp_path: Path) -> None:
    done = run_compose(tmp_path, NGC, "10.0.0.2")
    assert re.search(rf"--grpc-restricted-protocol={RESTRICTED}:key=[0-9a-f]{{32}}$", done.stdout.strip())


def test_docker_compose_accepts_the_file() -> None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        known = subprocess.run([*command, "version"], capture_output=True, timeout=60)
        if known.returncode != 0:
            continue
        done = subprocess.run(
            [*command, "-f", str(ROOT / "docker-compose.yml"), "config", "-q"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return
    pytest.skip("neither `docker compose` nor `docker-compose` is installed here")

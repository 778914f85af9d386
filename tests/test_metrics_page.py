"""Triton's metrics page: Prometheus' text, and the energy on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cascade_tools.errors import CascadeError, EnvironmentLacks, UsageError
from cascade_tools.machine.meters import NoMeter
from cascade_tools.serving.metrics_page import page_address, read_page, samples
from cascade_tools.serving.triton_energy import TritonEnergy, look_for_triton_meter

# The lines are tritonserver's.
ENERGY = """\
# HELP nv_gpu_power_limit GPU power management limit in watts
# TYPE nv_gpu_power_limit gauge
nv_gpu_power_limit{{gpu_uuid="GPU-one"}} 300.000000
# HELP nv_energy_consumption GPU energy consumption in joules since the Triton Server started
# TYPE nv_energy_consumption counter
nv_energy_consumption{{gpu_uuid="GPU-one"}} {one}
nv_energy_consumption{{gpu_uuid="GPU-two"}} {two}
"""


class Page(BaseHTTPRequestHandler):
    """Answers with the text that its server holds."""

    def do_GET(self) -> None:
        content = self.server.text.encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def show(page: ThreadingHTTPServer, text: str) -> str:
    page.text = text  # type: ignore[attr-defined]
    return f"http://127.0.0.1:{page.server_address[1]}/metrics"


@pytest.mark.parametrize(
    ("given", "page"),
    [
        ("127.0.0.1:8002", "http://127.0.0.1:8002/metrics"),
        ("[::1]:8002", "http://[::1]:8002/metrics"),
        ("http://triton:8002", "http://triton:8002/metrics"),
        ("http://triton:8002/", "http://triton:8002/metrics"),
        ("https://triton/inner/metrics", "https://triton/inner/metrics"),
    ],
)
def test_a_page_may_be_given_as_host_and_port(given: str, page: str) -> None:
    assert page_address(given) == page


@pytest.mark.parametrize("given", ["8002", "triton", "file:///etc/passwd", "http://", "http://a:99999/", ""])
def test_what_is_no_address_is_told_with_one_that_is(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        page_address(given)
    assert "http://127.0.0.1:8002/metrics" in caught.value.hint


def test_a_page_that_nobody_serves_is_no_failed_check() -> None:
    with pytest.raises(EnvironmentLacks) as caught:
        read_page("http://127.0.0.1:9/metrics")
    assert caught.value.exit_code == 4


def test_joules_of_all_gpus_are_summed(page: ThreadingHTTPServer) -> None:
    url = show(page, ENERGY.format(one="9380.053000", two="20.5"))
    meter = look_for_triton_meter(url)
    assert isinstance(meter, TritonEnergy)
    assert meter.devices == ("GPU-one", "GPU-two")
    assert meter.read_j() == pytest.approx(9400.553)
    show(page, ENERGY.format(one="9381.053000", two="21.5"))
    assert meter.read_j() == pytest.approx(9402.553)


def test_a_gpu_that_leaves_the_page_is_an_error_not_less_energy(page: ThreadingHTTPServer) -> None:
    meter = TritonEnergy(show(page, ENERGY.format(one="1.0", two="2.0")))
    show(page, 'nv_energy_consumption{gpu_uuid="GPU-one"} 5.0\n')
    with pytest.raises(CascadeError, match="GPU-two"):
        meter.read_j()


def test_a_server_without_gpus_has_no_meter(page: ThreadingHTTPServer) -> None:
    url = show(page, 'nv_cpu_utilization 0.25\nnv_inference_count{model="a",version="1"} 7\n')
    found = look_for_triton_meter(url)
    assert isinstance(found, NoMeter)
    assert url in found.why


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("wanted 3", {}, 3.0),
        ("wanted{} 3e-2", {}, 0.03),
        ('wanted{model="a b",tier="x"} 7', {"model": "a b", "tier": "x"}, 7.0),
        ('wanted{model="a",} 7 1700000000000', {"model": "a"}, 7.0),
        (r'wanted{model="}\"\\n\n{"} +Inf', {"model": '}"\\n\n{'}, float("inf")),
    ],
)
def test_samples_of_every_form(line: str, labels: dict[str, str], value: float) -> None:
    text = f"# TYPE wanted counter\nwanted_total 1\nunwanted 2\n{line}\nwanted_bucket 5\n"
    assert samples(text, "wanted") == [(labels, value)]

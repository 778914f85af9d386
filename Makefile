# Every target uses .venv in this folder and makes it if it is missing.
.PHONY: help setup demo check test gpu bench-search bench-guarantee bench-drift bench-router bench-where bench-trigger bench-profile bench-simulator bench-gears validate-simulator paper bench-place chaos soak format clean
.DEFAULT_GOAL := help

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 12

setup: ## Make .venv and install everything, pinned
	@scripts/setup

demo: setup ## Plan, serve and score the digits cascade on a real Triton
	@.venv/bin/cascade-tools demo

check: setup ## Format, lint, types, import direction
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest -q tests/test_architecture.py

test: setup ## All tests, those against a real Triton included, in two processes
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

gpu: setup ## The tests that need an NVIDIA GPU (a CUDA build of torch; TensorRT for its plans)
	.venv/bin/pytest tests/gpu -m gpu

bench-search: setup ## Policies beside the published way: cost, time, memory (about 25 minutes)
	.venv/bin/python -m benchmarks.search

bench-guarantee: setup ## Is the promise kept on new rows? (about 50 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.guarantee

bench-drift: setup ## The digits drift: when is it noticed, what do new cuts do? (about 5 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	.venv/bin/python -m benchmarks.drift

bench-router: setup ## Our router beside other ways to run a cascade on Triton (about 20 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	scripts/perf-analyzer
	.venv/bin/python -m benchmarks.router

bench-where: setup ## Where the time of one request goes, in microseconds (a minute)
	scripts/perf-analyzer
	.venv/bin/python -m benchmarks.where

bench-trigger: setup ## The batch trigger beside the fast shape (two minutes)
	.venv/bin/cascade-tools run ensembles/digits
	scripts/perf-analyzer
	.venv/bin/python -m benchmarks.trigger

bench-profile: setup ## Tiers profiled in process and through Triton: do both agree? (about 15 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	scripts/perf-analyzer
	.venv/bin/python -m benchmarks.profile

bench-simulator: setup ## How fast the simulator is, on one core (half a minute)
	.venv/bin/python -m benchmarks.simulator

paper: setup ## The papers' own experiments: build/paper.json and docs/paper.md (about 15 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	.venv/bin/python -m benchmarks.paper

bench-place: setup ## Placements of 8 to 10,000 GPUs beside simpler ones: rate, gap, seconds (about 10 minutes)
	.venv/bin/python -m benchmarks.placement

bench-gears: setup ## Do gears pay? Bursts of three times what the giant holds (about 8 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	.venv/bin/python -m benchmarks.gears

validate-simulator: setup ## The simulator held against the real server, pair by pair (at most 30 minutes)
	.venv/bin/cascade-tools run ensembles/digits
	.venv/bin/python -m benchmarks.validate_simulator

chaos: setup ## Twelve faults under load: is every request answered once, and rightly? (at most 12 minutes)
	.venv/bin/python -m benchmarks.chaos

soak: setup ## Ten minutes at 70 % of capacity: no lost answer, and does memory grow?
	.venv/bin/python -m benchmarks.soak

format: setup ## Format and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean: ## Remove what was derived; .venv stays
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis

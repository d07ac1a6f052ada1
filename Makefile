# make demo   a photo restyled both ways        make test   the whole test suite
# make coverage  the same, and fails if it runs less than 95 % of the lines (half as long again)
# make mutants   faulty versions of the CUDA kernels, each of which a test must catch (some minutes)
# make matrix    wheels built against five versions of torch, each run with all five (25 GB in build/matrix)
# make bench    the benchmarks on this CPU, and the tables and plot of docs/benchmarks.md (on CUDA: benchmarks/run_gpu.sh)
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py build_backend.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.*)

.PHONY: demo test coverage bench matrix mutants
demo: .venv/installed
	mkdir -p demo
	$(BIN)/python -c "from skimage import data, io; \
		io.imsave('demo/photo.jpg', data.rocket()); io.imsave('demo/reference.jpg', data.coffee())"
	$(BIN)/fastfcs stylize demo/photo.jpg --style demo/reference.jpg -o demo/artistic.jpg --force
	$(BIN)/fastfcs stylize demo/photo.jpg --style demo/reference.jpg --photoreal -o demo/photoreal.jpg --force
	@echo "The photo, its reference and both results are in $(CURDIR)/demo: photo.jpg, reference.jpg, artistic.jpg, photoreal.jpg"

test coverage: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest $(if $(filter coverage,$@),--cov) -n 2 --dist worksteal

mutants: .venv/installed
	$(BIN)/python tests/emulation/mutants.py

bench: .venv/installed
	$(BIN)/pip install --quiet -e ".[benchmark]"
	for name in laplacian gram stylizer; do \
		$(BIN)/python benchmarks/$$name.py --json benchmarks/results/cpu-$$(nproc)cores.json || exit; done
	$(BIN)/python benchmarks/render.py

matrix:
	$(PYTHON) tests/matrix.py

# Torch is installed first, so that the build finds it, and pinned; pip takes the small CPU build if the index has one.
.venv/installed: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e ".[test]"
	touch $@

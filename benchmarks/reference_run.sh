#!/usr/bin/env bash
# The reference run that README and docs cite: benchmarks/results/bench/. What is finished is kept in
# its folders cells/, which are not committed; run it again to go on, or after a change to see what
# moved. About 20 minutes on one core.
#
#     benchmarks/reference_run.sh [JOBS]
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
out=benchmarks/results/bench
jobs=${1:-1}
bench() { .venv/bin/python -m scoresde.cli bench "$@" --jobs "$jobs"; }
peers=(--peer "diffusers DPM++2M karras" --peer "diffusers DPM++3M lu" --peer "diffusers UniPC-3")

# An instance (seed) on which no setting of the library was chosen.
bench "ring8(seed=41)" --nfe 5,10,20,50 --samples 512 --dtype float64 "${peers[@]}" \
    --peer "diffusers DDIM" --peer "diffusers DEIS-3" --peer "diffusers SA-Solver P3C4 tau 1" \
    --solver recommended --solver DDIM --solver Heun --solver "DPMSolverPP(order=2)" \
    --solver "DPMSolverPP(order=3)" --solver DEIS --solver UniPC --solver Ancestral \
    --solver SASolver --solver DPMSolverAdaptive --metric rms --metric median --metric energy \
    --metric nll_gap --metric mode_weights --metric coverage --out "$out/ring8"
bench mnist --nfe 5,10,20 --samples 256 --tolerance 1e-4 "${peers[@]}" \
    --solver recommended --solver DDIM --solver "DPMSolverPP(order=2)" --solver UniPC \
    --metric frechet --metric rms --metric median --metric energy --metric precision \
    --metric coverage --out "$out/mnist"
cp "$out/ring8/report.png" docs/assets/bench_ring8.png
cp "$out/mnist/report.png" docs/assets/bench_mnist.png

#!/usr/bin/env bash
# The reference run that README and docs cite: benchmarks/results/bench/. What is finished is kept in
# its folders cells/, which are not committed: run it again to go on; delete them after a change of a
# solver. Other packages' samplers are rows where they are installed (docs/peers.md), and are listed
# as absent where not. About 25 minutes on one core.
#
#     benchmarks/reference_run.sh [JOBS]
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
out=benchmarks/results/bench
jobs=${1:-1}
scoresde() { "${PYTHON:-.venv/bin/python}" -m scoresde.cli "$@"; }

# One argument a word: flag, value, flag, value.
rows() {
    local flag=$1 value
    shift
    for value in "$@"; do printf '%s\n' "$flag" "$value"; done
}
mapfile -t solvers < <(rows --solver recommended "recommended(stochastic=True)" DDIM Heun \
    "DPMSolverPP(order=2)" "DPMSolverPP(order=3)" DEIS UniPC SASolver)
mapfile -t peers < <(rows --peer "diffusers DDIM" "diffusers DPM++2M karras" \
    "diffusers DPM++3M lu" "diffusers UniPC-3" "diffusers DEIS-3" "k-diffusion DPM++2M karras" \
    "azula zEAB-4 uniform lambda" "azula vAB-4 uniform lambda" \
    "dpm-solver DPM-Solver++-3M uniform lambda" "EDM Heun karras" \
    "UniPC bh2-4 uniform lambda, order kept to the end" \
    "diff-sampler iPNDM-4 quadratic" "diff-sampler DEIS tAB4 quadratic" \
    "diffusers SA-Solver P3C4 tau 1" "SA-Solver P3C4 tau 1 uniform lambda" \
    "ER-SDE-3 SDE uniform lambda" "k-diffusion DPM++2M SDE exponential")
# Many peers end with a step of first order; t_min = 1e-4 is what DPM-Solver's authors advise.
exact=(--process "VPSDE(t_min=1e-4)" --dtype float64)
mapfile -t errors < <(rows --metric rms median energy nll_gap)
mapfile -t plane < <(rows --metric mode_weights coverage)

# Grids tuned to a model, for each of the budgets, from other starts than those of the comparison.
tuned=()
tune() { # folder, model, budgets, further arguments
    local folder=$out/$1/cells model=$2 nfe
    mkdir -p "$folder"
    tuned=()
    for nfe in $3; do
        [ -e "$folder/tuned$nfe.json" ] ||
            scoresde tune "$model" --nfe "$nfe" --out "$folder/tuned$nfe.json" "${@:4}"
        tuned+=(--solver "$folder/tuned$nfe.json")
    done
}
bench() { # folder, model, further arguments
    scoresde bench "$2" --jobs "$jobs" --out "$out/$1" "${@:3}"
}

# Instances (seeds) on which no setting of the library was chosen.
tune ring8 "ring8(seed=41)" "5 10 20" "${exact[@]}"
bench ring8 "ring8(seed=41)" --nfe 5,10,20,50 --samples 512 "${exact[@]}" "${solvers[@]}" \
    --solver Ancestral --solver DPMSolverAdaptive "${tuned[@]}" "${peers[@]}" \
    "${errors[@]}" "${plane[@]}"
bench spiral "spiral(seed=41)" --nfe 5,10,20,50 --samples 512 "${exact[@]}" "${solvers[@]}" \
    "${peers[@]}" "${errors[@]}" "${plane[@]}"
tune digits64 "digits64(seed=41)" "10" "${exact[@]}"
bench digits64 "digits64(seed=41)" --nfe 5,10,20,50 --samples 256 "${exact[@]}" "${solvers[@]}" \
    "${tuned[@]}" "${peers[@]}" "${errors[@]}"
bench lowrank3072 "lowrank3072(seed=41)" --nfe 5,10,20,50 --samples 64 "${exact[@]}" \
    "${solvers[@]}" "${peers[@]}" "${errors[@]}"

# The network that ships: many samples by distribution, fewer against their endpoints. Tuned rows for
# it are those of benchmarks/tuning.py, which takes longer.
mapfile -t solvers < <(rows --solver recommended "recommended(stochastic=True)" DDIM \
    "DPMSolverPP(order=2)" UniPC)
mapfile -t peers < <(rows --peer "diffusers DPM++2M karras" "diffusers DPM++3M lu" \
    "diffusers UniPC-3" "azula zEAB-4 uniform lambda" "diff-sampler iPNDM-4 quadratic" \
    "diff-sampler DEIS tAB4 quadratic")
bench mnist mnist --nfe 5,8,10 --samples 1000 "${solvers[@]}" "${peers[@]}" \
    --metric frechet --metric kernel --metric precision --metric coverage
bench mnist_endpoints mnist --nfe 5,10,20 --samples 64 --tolerance 1e-4 \
    "${solvers[@]}" "${peers[@]}" --metric rms --metric median
for name in ring8 mnist; do cp "$out/$name/report.png" "docs/assets/bench_$name.png"; done

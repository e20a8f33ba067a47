# Sourced by gpu-check.sh: the part `frameworks`. For each side and set of modules one python3 imports them once and then forks for
# each script (frameworks/run.py), so that a script costs what it does and not what an import does.
# shellcheck shell=bash disable=SC2154

declare -A ask answer
servers=()

# serve SIDE MODULES: starts the process that runs scripts; asked through ${ask[SIDE MODULES]}.
serve() {
    local key="$1 $2" pipe=$work/serve.${#servers[@]} to from line
    mkdir -p "$work/frameworks/$1" "$work/cache/$1" "$logs/stats"
    mkfifo "$pipe.in" "$pipe.out"
    local settings=(LD_LIBRARY_PATH="$(libraries "$1")" PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$work/cache/$1" TRITON_CACHE_DIR="$work/cache/$1/triton" CUPY_CACHE_DIR="$work/cache/$1/cupy")
    [ "$1" = native ] || settings+=(VGPU_SOCKET="$work/vgpu.sock" VGPU_LOG=1 FRAMEWORKS_STATS="$logs/stats")
    env "${settings[@]}" python3 "$here/frameworks/run.py" "$work/frameworks/$1" "$2" \
        <"$pipe.in" >"$pipe.out" 2>>"$logs/frameworks.$1.err" &
    servers+=("$!")
    exec {to}>"$pipe.in" {from}<"$pipe.out"
    ask[$key]=$to answer[$key]=$from
    read -r -t "$(within 120)" -u "$from" line && [ "$line" = ready ] && return
    echo "frameworks: $1: $2 cannot be imported: $(tail -n 1 "$logs/frameworks.$1.err")"
    answer[$key]=
}

stop_frameworks() {
    local pid
    for pid in "${servers[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
}

# script SIDE NAME MODULES SECONDS TIMED: prints "verdict seconds reason".
script() {
    local side=$1 name=$2 key="$1 $3" cap status='' seconds=- last verdict folder=$work/frameworks/$1
    if [ -z "${answer[$key]:-}" ]; then printf 'FAIL\t-\t%s cannot be imported\n' "$3"; return; fi
    cap=$(within "$4")
    echo "$name $cap $5" >&"${ask[$key]}"
    read -r -t $((cap + 15)) -u "${answer[$key]}" _ status seconds || status="no answer"
    last=$(tail -n 1 "$folder/$name.out" 2>/dev/null)
    case $last in
        "PASS $name") verdict=pass ;;
        "SKIP $name"*) verdict=skip ;;
        *) verdict=FAIL ;;
    esac
    if [ "$verdict" != FAIL ] && [ "$status" != 0 ]; then verdict=FAIL; last="$last, then status $status"; fi
    if [ "$verdict" = FAIL ] && [[ "$last" != "FAIL $name"* ]]; then last="status $status: $(grep -h 'Error' "$folder/$name.err" 2>/dev/null | tail -n 1 | cut -c1-150)"; fi
    if [ "$status" = timeout ] && [ "$cap" -lt "$4" ]; then verdict=none; last="cut off at the end of the whole run"; fi
    { echo "== $name: $verdict, status $status, $seconds s"; cat "$folder/$name.out"; tail -n 40 "$folder/$name.err"; } >>"$logs/$side.log" 2>/dev/null
    [ "$verdict" = pass ] && last=
    printf '%s\t%s\t%s\n' "$verdict" "${seconds:--}" "${last#* "$name": }"
}

# counted NAME: what a script asked of the driver, in one line.
counted() {
    [ ! -e "$logs/stats/$1.stats" ] || awk '$2 ~ /^cu[A-Z]/ && NF == 6 { calls += $3; crossed += $4; waited += $5 }
        END { if (calls) printf "%d calls, %d crossed, %d waited", calls, crossed, waited }' "$logs/stats/$1.stats"
}

frameworks() {
    local name modules seconds timed n ns nr s ss sr remark started=''
    while IFS=$'\t' read -r name modules seconds timed; do
        if [[ "$name" == '#'* ]] || ! wanted "$name"; then continue; fi
        if [ "$(left)" -lt 8 ]; then not_run frameworks "$name" "no time left"; continue; fi
        if ! python3 -c "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m.split('.')[0]) for m in '$modules'.split(',')))" 2>/dev/null; then
            not_run frameworks "$name" "python3 has no $modules here"; continue
        fi
        for side in native shim; do
            if on $side && [[ "$started" != *"<$side $modules>"* ]]; then serve $side "$modules"; started="$started<$side $modules>"; fi
        done
        n=none ns=- nr='' s=none ss=- sr=''
        if on native; then IFS=$'\t' read -r n ns nr < <(script native "$name" "$modules" "$seconds" "${timed:-}"); fi
        if on shim; then IFS=$'\t' read -r s ss sr < <(script shim "$name" "$modules" "$seconds" "${timed:-}"); fi
        remark=
        [ -n "$nr" ] && remark="native: $nr"
        [ -n "$sr" ] && remark="${remark:+$remark; }shim: $sr"
        if [ "$n" = pass ] && [ "$s" = pass ]; then
            remark=$(python3 "$here/frameworks/compare.py" "$work/frameworks/native/$name.out" "$work/frameworks/shim/$name.out") || s=FAIL
        fi
        if [ "$s" != none ]; then
            remark="${remark:+$remark; }$(counted "$name")$(sed -n 's/^NOTE per /; per /p' "$work/frameworks/shim/$name.out" 2>/dev/null | tr -d '\n')"
        fi
        [ "$n $s" = "pass pass" ] || ns=-
        record frameworks "$name" "$n" "$s" "$(ratio "$ns" "$ss")" "${remark%; }"
        publish "in frameworks"
    done <"$here/frameworks/jobs.tsv"
    mkdir -p "$logs/frameworks"
    cp -r "$work/frameworks/." "$logs/frameworks/" 2>/dev/null
}

# Sourced by the scripts for a machine with a GPU, with `out`, `work` and `prefix` set: time that is left, and results. `about`
# is what they say of the machine.
#
# record PART NAME NATIVE SHIM RATIO REMARK notes a result; verdicts are pass, FAIL, skip, none. publish writes them to
# $out/${prefix}summary.txt, what went wrong first, and everything below $work/logs to $out/${prefix}logs.tar.gz: few small
# files, rewritten often, for machines that bring back little and end a command without a warning. LIMIT_TOTAL_S (default
# 570) bounds the whole run.
# shellcheck shell=bash disable=SC2154

began=$SECONDS
about=
limit_total=${LIMIT_TOTAL_S:-570}
logs=$work/logs
results=$work/results.tsv
mkdir -p "$out" "$logs"
: >"$results"

# left: seconds that may still be used, with some kept for the end; never less than 0.
left() { local rest=$((limit_total - (SECONDS - began) - 8)); echo $((rest > 0 ? rest : 0)); }

# within LIMIT: LIMIT, or what is left of the whole where that is less.
within() { local rest; rest=$(left); echo $(($1 < rest ? $1 : rest)); }

# Seconds since the epoch, and their difference.
now() { date +%s.%N; }
since() { echo "$1 $(now)" | awk '{ printf "%.2f", $2 - $1 }'; }
# ratio NATIVE SHIM: of two times, where there are two.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.2fx", b / a; else print "-" }'; }

record() { printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "${5:--}" "${6:-}" | tee -a "$results" | tr '\t' ' '; }

# not_run PART NAME WHY
not_run() { record "$1" "$2" none none - "not run: $3"; }

# The worst first: what fails through the shim, what fails natively, what was skipped or not run, notes; then what passed, in few lines.
summarise() {
    awk -F '\t' '
    function rank() {
        if ($4 == "FAIL") return $3 == "FAIL" ? 2 : 1
        if ($3 == "FAIL") return 2
        if ($4 == "skip" || $3 == "skip") return 3
        if ($6 ~ /^not run|cut off/) return 4
        return $6 == "" ? 6 : 5
    }
    { r = rank(); count[r]++
      if (r == 4) { place = $1 ": " ($6 ~ /^not run/ ? substr($6, 10) : "cut off at the end of the whole run"); name[4, place] = name[4, place] " " $2; if (!(place in seen)) { seen[place] = 1; order[++places] = place } next }
      if (r == 6) { passed[++n] = $2 ($5 == "-" ? "" : " " $5); next }
      line[r] = line[r] substr(sprintf("%s %s: native %s, shim %s%s%s", $1, $2, $3, $4, $5 == "-" ? "" : ", " $5, $6 == "" ? "" : "; " $6), 1, 190) "\n" }
    END {
        printf "%d passed, %d FAILED, %d failed natively too or only there, %d skipped, %d not run\n", count[5] + count[6], count[1], count[2], count[3], count[4]
        split("1 2 3", ranks, " ")
        split("FAILED through the shim:|failed natively:|skipped:", heads, "|")
        for (i = 1; i <= 3; i++) if (line[i] != "") printf "%s\n%s", heads[i], line[i]
        if (places) { print "not run:"; for (i = 1; i <= places; i++) print substr(order[i] ":" name[4, order[i]], 1, 400) }
        if (line[5] != "") printf "passed, with a remark:\n%s", line[5]
        if (n) { print "passed (x: wall time of the shim over native):"; text = ""
            for (i = 1; i <= n; i++) { if (length(text passed[i]) > 116) { print text; text = "" } text = text (text == "" ? "" : ", ") passed[i] }
            if (text != "") print text }
    }' "$results"
}

# publish [WORD]: the summary and the logs as they stand. Written aside and moved, so that an end in the middle leaves the last whole ones.
publish() {
    { echo "$about"; echo "after $((SECONDS - began)) s${1:+, $1}: $(summarise)"; } | head -c 11000 >"$out/${prefix}summary.new"
    mv "$out/${prefix}summary.new" "$out/${prefix}summary.txt"
    cp "$results" "$logs/results.tsv"
    tar -czf "$out/${prefix}logs.new" -C "$work" logs 2>/dev/null
    mv "$out/${prefix}logs.new" "$out/${prefix}logs.tar.gz"
}

# failures: how many fail through the shim and not natively.
failures() { awk -F '\t' '$4 == "FAIL" && $3 != "FAIL" { n++ } END { print n + 0 }' "$results"; }

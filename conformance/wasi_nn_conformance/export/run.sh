#!/bin/sh
# Run the cases and print those that fail.
#
#   sh run.sh                        all of them
#   sh run.sh 'onnx/witx/names/*'    those whose folders match a pattern
cd "$(dirname "$0")" || exit 2
. ./host.sh

passed=0 failed=0
[ $# -gt 0 ] || set -- '*/*/*/*'
for pattern in "$@"; do
    for folder in cases/$pattern; do
        [ -e "$folder/expected" ] || continue
        cell=${folder#cases/}
        encoding=${cell%%/*}
        cell=${cell#*/}
        set -- "$encoding" "${cell%%/*}" "guests/$(cat "$folder/module")"
        while IFS= read -r argument; do set -- "$@" "$argument"; done < "$folder/args"
        if { host "$@" < "$folder/stdin" 2> /dev/null; echo "exit $?"; } | awk '
            NR == FNR { wanted[++lines] = $0; next }
            { found++ }
            !wrong && (found > lines || $0 !~ "^(" wanted[found] ")$") {
                wrong = 1
                print "line " found ": " $0 "\n  expected: " wanted[found]
            }
            END { exit wrong || found < lines }' "$folder/expected" - > "$folder/difference"
        then
            passed=$((passed + 1))
            rm "$folder/difference"
        else
            failed=$((failed + 1))
            echo "fail $folder"
            sed 's/^/  /' "$folder/difference"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]

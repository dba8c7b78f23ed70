# shellcheck shell=bash
# Sourced by scripts/test and scripts/test-all, which set -e: runs named steps, and prints a table of how long
# each took when the script ends.

steps=() current='' began=0

# step NAME COMMAND... - a command that fails ends the script.
step() {
    current=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$current" >&2
    "$@"
    end_step passed
}

# end_step RESULT
end_step() {
    steps+=("$(printf '%-72s %6d s  %s' "$current" $((SECONDS - began)) "$1")")
    current=''
}

print_steps() {
    [ -z "$current" ] || end_step FAILED
    printf '\n' >&2
    printf '%s\n' "${steps[@]}" >&2
    printf '%-72s %6d s\n' "all steps" "$SECONDS" >&2
}
trap print_steps EXIT

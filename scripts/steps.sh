# shellcheck shell=bash
# scripts/test and scripts/test-all source this file, with `set -e`. It runs named steps, prints the duration of each step
# when the script ends, and prepares the base images.

steps=() current='' began=0

# step NAME COMMAND... - runs a step. If the command fails, the script ends.
step() {
    current=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$current" >&2
    "$@"
    end_step passed
}

# end_step RESULT - records the duration and the result of the current step.
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

# Uses the official images if a registry is reachable. Otherwise it makes images from the distribution's packages.
prepare_images() {
    if timeout 60 docker pull --quiet nginx:1.30 >/dev/null 2>&1; then
        return 0
    fi
    echo "no image registry is reachable: making base images from the distribution's packages" >&2
    local settings name value
    settings=$(scripts/base-images)
    while IFS='=' read -r name value; do
        export "$name=$value"
    done <<<"$settings"
}

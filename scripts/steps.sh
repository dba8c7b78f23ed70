# shellcheck shell=bash
# Sourced by scripts/test and scripts/test-all, which set -e: runs named steps, prints a table of how long each
# took when the script ends, and prepares the images that Docker builds start from.

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

# A registry serves the official images; without one, images are made from the distribution's packages.
prepare_images() {
    if timeout 60 docker pull --quiet nginx:1.30 >/dev/null 2>&1; then
        return 0
    fi
    echo "no image registry is reached: making base images from the distribution's packages" >&2
    local settings name value
    settings=$(scripts/base-images)
    while IFS='=' read -r name value; do
        export "$name=$value"
    done <<<"$settings"
}

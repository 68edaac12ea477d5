# Sourced by the scripts here: --dry-run as their first argument prints what they
# would run, ready to be pasted, and runs nothing. All keep to bash 3.2, macOS's own.
# shellcheck shell=bash
set -euo pipefail

is_dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  is_dry_run=true
  shift
fi

quoted() { # WORD...; in one line, as a shell reads them
  local words
  printf -v words '%q ' "$@"
  printf '%s\n' "${words% }"
}

step() { # COMMAND...
  if $is_dry_run; then
    quoted "$@"
  else
    "$@"
  fi
}

await() { # PROCESS; its status, however often signals to this script end the waiting
  local status=0 again=0
  while true; do
    wait "$1" && status=0 || status=$?
    kill -0 "$1" 2>/dev/null || break
  done
  if ((status > 128)); then
    # It may have ended on its own between a signal and the look at it.
    wait "$1" 2>/dev/null && again=0 || again=$?
    ((again == 127)) || status=$again
  fi
  return "$status"
}

usage() { # the comment at the head of the script
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

# What embedmask_jax.main exits with after SIGTERM: its state is saved, start it again.
# shellcheck disable=SC2034  # the scripts use it
retry=75

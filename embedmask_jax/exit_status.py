"""What the exit status of a command says."""

SUCCESS = 0
# check-data, prepare: something is lost; export --verify: a difference; a failed host
FINDINGS = 1
USER_MISTAKE = 2  # or a loss that is not finite
RETRY = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130
OUTPUT_CLOSED = 141  # as a shell reports SIGPIPE

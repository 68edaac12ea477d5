"""What the exit status of a command says."""

SUCCESS = 0
FINDINGS = 1  # check-data: something would be lost; also a host that failed
USER_MISTAKE = 2
RETRY = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130
OUTPUT_CLOSED = 141  # as a shell reports SIGPIPE

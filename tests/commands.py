"""Commands that run in this process, and what their mistakes look like."""

from embedmask_jax import command_line, main


def run_main(*arguments):
  """Runs `python -m embedmask_jax.main`; returns the exit status."""
  # JAX has been used in this process, after which no other host can be joined.
  return main.run(['main', '--compilation_cache=off', '--nodistributed', *arguments])


def refused(capsys, *arguments, run=command_line.run):
  """The one line on stderr of a command that fails by the user's mistake.

  `run` takes the arguments as a list.
  """
  capsys.readouterr()
  assert run(arguments) == 2
  captured = capsys.readouterr()
  assert not captured.out
  lines = captured.err.strip().splitlines()
  assert len(lines) == 1, lines
  assert lines[0].startswith('error: ')
  return lines[0]

"""The one exception that stands for a user's mistake."""


class UserError(Exception):
  """Input that cannot be used as given.

  The message names the file, field or value and the remedy. Command-line entry
  points print it as a single line and exit with status 2, without a traceback.
  """

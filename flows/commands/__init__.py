"""What the subcommands of `trtflow` do; each takes the parsed options and returns the exit code."""

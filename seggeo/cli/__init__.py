"""The command line: options, progress, messages and exit codes. The only place that prints."""

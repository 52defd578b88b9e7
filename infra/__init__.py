"""Settings, errors, files, processes, and the services of one machine. See README.md."""

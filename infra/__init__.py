"""The ground floor: settings, errors, files, processes, and the services of one machine. See README.md."""

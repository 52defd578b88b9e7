"""Reading rows: wheels, files, hub data sets."""

"""Plans that come with the package; `dept run NAME` finds them by file name."""

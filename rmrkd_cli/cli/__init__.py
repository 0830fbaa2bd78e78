"""One file for each command: it parses options, calls the package that does the work, and prints the result."""

"""One file a command: it parses options, calls the layer below, and prints."""

"""Worker processes on one or several machines: launcher, rendezvous, process group, errors of workers."""

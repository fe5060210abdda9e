"""The machine under the program: ranks and devices, signals and stalls, checksums."""

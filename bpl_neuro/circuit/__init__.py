"""A circuit, one linearised step of it, its readout and the synthesiser population."""

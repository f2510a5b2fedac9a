"""Draws and densities of p(z|x) that no encoder makes: Hamiltonian chains, local guides, moments."""

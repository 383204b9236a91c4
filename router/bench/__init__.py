"""Measuring backends as their users feel them, alone or one against another."""

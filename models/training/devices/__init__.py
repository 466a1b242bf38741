"""Devices that train, on one machine or several."""

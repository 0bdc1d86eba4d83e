"""Figures for people: tables for the terminal, one self-contained HTML page, and the same content as plain values.

Nothing runs here: all of it is made from what a run left (inference.results), so that any executor has the same report.
"""

"""The study: each technique on each small dataset, and what the paper's claims become.

`python -m study` trains its runs and writes docs/study.md.
"""

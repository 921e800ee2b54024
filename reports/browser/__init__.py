"""The dashboard: a page in the browser that shows runs from a folder, while they train and after. No W&B, no network.

Runs are read (`reports.sources.watch`), condensed (`cards`, `thin`) and described for the page (`board`); `server`
shows the page live, `export` writes it as files. The page asks for the same answers in both.
"""

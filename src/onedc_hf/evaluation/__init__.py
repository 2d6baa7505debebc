"""Measuring: a model and classical codecs on a set of pictures, and what is made of the figures.

    run.py         the run: every picture at every rate, real files, one row each; rows.py keeps them, and resumes
    originals.py   where pictures come from; benchmarks.py the named sets
    metrics/       one metric a file; `METRICS` and `SET_METRICS` list them with net and direction
    spectrum.py, seams.py   is there a grid, or a seam, in the picture that the original does not have?
    classical.py, learned.py   other codecs at the size nearest to a target
    tables.py, curves.py, plots.py, crops.py, page.py   the figures for people; published.py what others measured
    model_page.py, gallery.py, benchmark_repo.py   the figures, pictures and sets for the Hub
    cost.py        seconds and memory in a process of their own
    sheet.py       original | OneDC | JPEG | WebP | AVIF as one PNG

Every rate is that of a real file that was really decoded: bpp = 8 x bytes of the file / pixels of the picture.
"""
